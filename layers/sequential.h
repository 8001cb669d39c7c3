// Modules one after the other.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <lockstep/layers/module.h>

namespace lockstep {

/// Feeds each module's output to the next; empty, it returns its input. Owns its modules, named "0", "1", …:
///
///     Sequential net{Conv2d(3, 16, 3), ReLU(), Flatten(), Linear(14400, 10)};
class Sequential : public Module {
 public:
  Sequential() = default;
  /// Any mix of modules, by value. (One Sequential alone is copied, not nested.)
  template <class... Modules>
  requires(sizeof...(Modules) > 0 && (std::derived_from<std::remove_cvref_t<Modules>, Module> && ...) &&
           !(sizeof...(Modules) == 1 && (std::same_as<std::remove_cvref_t<Modules>, Sequential> &&
                                         ...))) explicit Sequential(Modules&&... modules) {
    (push_back(std::forward<Modules>(modules)), ...);
  }

  /// Adds a module at the end and returns it where it now is.
  template <class M>
  requires std::derived_from<std::remove_cvref_t<M>, Module> std::remove_cvref_t<M>
  &push_back(M&& module) {
    append(detail::ModuleBox(std::remove_cvref_t<M>(std::forward<M>(module))));
    return static_cast<std::remove_cvref_t<M>&>((*this)[size() - 1]);
  }

  std::size_t size() const { return num_children(); }  ///< number of modules
  bool empty() const { return size() == 0; }           ///< size() == 0
  /// Throws ValueError outside [0, size()).
  Module& operator[](std::size_t index) const;
  /// The module at `index` as what it is: `net.at<Linear>(3).weight`. Throws ValueError if it is something else.
  template <std::derived_from<Module> M>
  M& at(std::size_t index) const {
    Module& module = (*this)[index];
    if (auto* typed = dynamic_cast<M*>(&module)) return *typed;
    fail_type(index, module);
  }

  Tensor forward(const Tensor& x) override;

 private:
  void append(detail::ModuleBox module);
  [[noreturn]] static void fail_type(std::size_t index, const Module& module);
};

}  // namespace lockstep
