// Named tensors in a fixed order: what models, optimizers and weight files exchange.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep {

/// A map from names to tensors that keeps the order of insertion. The tensors are handles: a state dict taken from a
/// model shares the model's memory.
class StateDict {
 public:
  using Entry = std::pair<std::string, Tensor>;  ///< a name and its tensor

  StateDict() = default;
  /// Throws ValueError if a name occurs twice.
  StateDict(std::initializer_list<Entry> entries);

  std::size_t size() const { return entries_.size(); }  ///< number of entries
  bool empty() const { return entries_.empty(); }       ///< size() == 0
  /// Whether there is an entry of that name.
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// The tensor of that name, or null.
  const Tensor* find(std::string_view name) const;
  /// The tensor of that name. Throws ValueError if there is none.
  const Tensor& at(std::string_view name) const;

  /// Adds an entry at the end. Throws ValueError if the name is taken.
  void insert(std::string name, Tensor tensor);
  /// Puts another tensor under a name, or adds an entry at the end.
  void set(std::string_view name, Tensor tensor);
  /// Removes an entry; false if there is none of that name.
  bool erase(std::string_view name);

  /// Entries in order, as pairs: `for (const auto& [name, tensor] : state_dict)`.
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }  ///< behind the last entry

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> positions_;
};

}  // namespace lockstep
