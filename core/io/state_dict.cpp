#include <lockstep/core/io/state_dict.h>

#include <lockstep/core/base/check.h>

namespace lockstep {

StateDict::StateDict(std::initializer_list<Entry> entries) {
  for (const auto& [name, tensor] : entries) insert(name, tensor);
}

const Tensor* StateDict::find(std::string_view name) const {
  const auto position = positions_.find(name);
  return position == positions_.end() ? nullptr : &entries_[position->second].second;
}

const Tensor& StateDict::at(std::string_view name) const {
  const Tensor* tensor = find(name);
  LOCKSTEP_CHECK(tensor, ValueError, "StateDict", "expected one of the {} names, got '{}'", size(), name);
  return *tensor;
}

void StateDict::insert(std::string name, Tensor tensor) {
  LOCKSTEP_CHECK(positions_.try_emplace(name, entries_.size()).second, ValueError, "StateDict",
                 "expected a new name, got '{}', which is taken", name);
  entries_.emplace_back(std::move(name), std::move(tensor));
}

void StateDict::set(std::string_view name, Tensor tensor) {
  const auto position = positions_.find(name);
  if (position == positions_.end()) return insert(std::string(name), std::move(tensor));
  entries_[position->second].second = std::move(tensor);
}

bool StateDict::erase(std::string_view name) {
  const auto position = positions_.find(name);
  if (position == positions_.end()) return false;
  const std::size_t erased = position->second;
  positions_.erase(position);
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(erased));
  for (auto& [key, index] : positions_) index -= index > erased;
  return true;
}

}  // namespace lockstep
