#include <lockstep/layers/module.h>

#include <cxxabi.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ostream>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>

#include <lockstep/core/base/check.h>

namespace lockstep {

namespace detail {

ModuleBox::ModuleBox(const ModuleBox& other) : module_(other.copy_(*other.module_)), copy_(other.copy_) {}

ModuleBox& ModuleBox::operator=(ModuleBox other) noexcept {
  std::swap(module_, other.module_);
  std::swap(copy_, other.copy_);
  return *this;
}

}  // namespace detail

// ---- Forward and hooks.

Tensor Module::forward(const Tensor&) {
  detail::fail<ValueError>("forward", "{} has no forward of one tensor", type_name());
}

Tensor Module::operator()(const Tensor& x) {
  Tensor y = forward(x);
  if (has_forward_hooks()) [[unlikely]] {
    const auto hooks = *hooks_.list;  // a copy, since a hook may remove itself
    for (const auto& [id, hook] : hooks) hook(*this, x, y);
  }
  return y;
}

HookHandle Module::register_forward_hook(ForwardHook hook) {
  LOCKSTEP_CHECK(hook != nullptr, ValueError, "register_forward_hook", "expected a function, got an empty one");
  if (!hooks_.list) hooks_.list = std::make_shared<detail::ForwardHooks::List>();
  static std::atomic<std::uint64_t> next_id{0};  // never used again, so that a stale handle removes nothing
  HookHandle handle;
  handle.list_ = hooks_.list;
  handle.id_ = next_id++;
  hooks_.list->emplace_back(handle.id_, std::move(hook));
  return handle;
}

void HookHandle::remove() {
  if (const auto list = list_.lock()) std::erase_if(*list, [&](const auto& entry) { return entry.first == id_; });
  list_.reset();
}

// ---- Registration. Members are found again by their distance from this, which is the same in every copy.

void Module::check_name(const std::string& name) const {
  LOCKSTEP_CHECK(!name.empty() && name.find('.') == std::string::npos, ValueError, "register",
                 "expected a name without dots in {}, got '{}'", type_name(), name);
  const auto has_name = [&](const auto& entry) { return entry.name == name; };
  LOCKSTEP_CHECK(std::ranges::none_of(parameters_, has_name) && std::ranges::none_of(buffers_, has_name) &&
                     std::ranges::none_of(children_, has_name),
                 ValueError, "register", "{} already has a member '{}'", type_name(), name);
}

std::ptrdiff_t Module::offset_of(const std::string& name, const void* member) const {
  // The size of the derived object is not known here; this catches most of what lies elsewhere, the stack or heap.
  constexpr std::ptrdiff_t kLargestModule = 1 << 24;
  const std::ptrdiff_t offset = static_cast<const char*>(member) - reinterpret_cast<const char*>(this);
  LOCKSTEP_CHECK(offset >= static_cast<std::ptrdiff_t>(sizeof(Module)) && offset < kLargestModule, ValueError,
                 "register", "expected '{}' to be a data member of {}", name, type_name());
  return offset;
}

void Module::register_parameter(std::string name, Tensor& parameter) {
  check_name(name);
  const std::ptrdiff_t offset = offset_of(name, &parameter);
  if (parameter.defined()) parameter.set_requires_grad(true);
  parameters_.push_back({std::move(name), offset});
}

void Module::register_buffer(std::string name, Tensor& buffer) {
  check_name(name);
  const std::ptrdiff_t offset = offset_of(name, &buffer);
  buffers_.push_back({std::move(name), offset});
}

void Module::register_module(std::string name, Module& child) {
  check_name(name);
  const std::ptrdiff_t offset = offset_of(name, &child);
  children_.push_back({std::move(name), offset, {}});
}

void Module::register_module(std::string name, detail::ModuleBox child) {
  check_name(name);
  children_.push_back({std::move(name), 0, std::move(child)});
}

Tensor& Module::member(const TensorMember& tensor) const {
  return *reinterpret_cast<Tensor*>(reinterpret_cast<char*>(const_cast<Module*>(this)) + tensor.offset);
}

Module& Module::child(std::size_t index) const {
  const Child& child = children_[index];
  if (child.owned) return *child.owned->get();
  return *reinterpret_cast<Module*>(reinterpret_cast<char*>(const_cast<Module*>(this)) + child.offset);
}

const detail::ModuleBox& Module::owned_child(std::size_t index) const {
  LOCKSTEP_CHECK(children_[index].owned, ValueError, "owned_child", "expected '{}' of {} to be owned on the heap",
                 children_[index].name, type_name());
  return *children_[index].owned;
}

// ---- Recursion.

void Module::visit_modules(const std::string& prefix,
                           const std::function<void(const std::string&, Module&)>& visit) const {
  visit(prefix, const_cast<Module&>(*this));
  for (std::size_t i = 0; i < children_.size(); ++i) child(i).visit_modules(prefix + children_[i].name + '.', visit);
}

std::vector<std::pair<std::string, Module*>> Module::named_modules() {
  std::vector<std::pair<std::string, Module*>> modules;
  visit_modules("", [&](const std::string& prefix, Module& module) {
    modules.emplace_back(prefix.substr(0, prefix.empty() ? 0 : prefix.size() - 1), &module);
  });
  return modules;
}

std::vector<std::pair<std::string, Tensor>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> parameters;
  std::unordered_set<const void*> seen;
  visit_modules("", [&](const std::string& prefix, Module& module) {
    for (const TensorMember& entry : module.parameters_) {
      const Tensor& tensor = module.member(entry);
      if (tensor.defined() && seen.insert(tensor.impl()).second) parameters.emplace_back(prefix + entry.name, tensor);
    }
  });
  return parameters;
}

std::vector<Tensor> Module::parameters() const {
  std::vector<Tensor> parameters;
  for (auto& [name, tensor] : named_parameters()) parameters.push_back(std::move(tensor));
  return parameters;
}

std::vector<std::pair<std::string, Tensor>> Module::named_buffers() const {
  std::vector<std::pair<std::string, Tensor>> buffers;
  visit_modules("", [&](const std::string& prefix, Module& module) {
    for (const TensorMember& entry : module.buffers_) {
      if (const Tensor& tensor = module.member(entry); tensor.defined())
        buffers.emplace_back(prefix + entry.name, tensor);
    }
  });
  return buffers;
}

void Module::train(bool on) {
  visit_modules("", [on](const std::string&, Module& module) { module.training_ = on; });
}

void Module::zero_grad() {
  for (const Tensor& parameter : parameters()) {
    if (parameter.requires_grad()) parameter.set_grad({});
  }
}

void Module::requires_grad(bool on) {
  for (Tensor& parameter : parameters()) parameter.set_requires_grad(on);
}

// ---- Conversions. Two passes, so that a conversion that throws leaves the module as it was.

void Module::convert_tensors(const std::function<Tensor(const Tensor&)>& convert) {
  const NoGradGuard no_grad;
  std::unordered_map<const void*, Tensor> converted;
  const auto convert_once = [&](const Tensor& tensor) {
    if (!tensor.defined() || converted.contains(tensor.impl())) return;
    Tensor result = convert(tensor);
    if (result.impl() != tensor.impl() && tensor.requires_grad()) result.set_requires_grad(true);
    converted.emplace(tensor.impl(), std::move(result));
  };
  const auto replace = [&](Tensor& tensor) {
    if (tensor.defined()) tensor = converted.at(tensor.impl());
  };
  std::vector<Tensor> originals;  // keeps them alive: a freed one's address could be taken by another
  visit_modules("", [&](const std::string&, Module& module) {
    for (const auto* members : {&module.parameters_, &module.buffers_}) {
      for (const TensorMember& entry : *members) {
        originals.push_back(module.member(entry));
        convert_once(originals.back());
      }
    }
  });
  visit_modules("", [&](const std::string&, Module& module) {
    for (const TensorMember& entry : module.parameters_) replace(module.member(entry));
    for (const TensorMember& entry : module.buffers_) replace(module.member(entry));
  });
}

void Module::to(Device device) {
  convert_tensors([device](const Tensor& x) { return is_floating(x.dtype()) ? x.to(device) : x; });
}

void Module::to(DType dtype) {
  LOCKSTEP_CHECK(is_floating(dtype), DTypeError, "to", "expected a floating dtype for the parameters of {}, got {}",
                 type_name(), name(dtype));
  convert_tensors([dtype](const Tensor& x) { return is_floating(x.dtype()) ? x.to(dtype) : x; });
}

void Module::replace_with_clones() {
  convert_tensors([](const Tensor& x) { return x.clone(); });
}

// ---- State dicts.

StateDict Module::state_dict() const {
  StateDict state;
  visit_modules("", [&](const std::string& prefix, Module& module) {
    for (const auto* members : {&module.parameters_, &module.buffers_}) {
      for (const TensorMember& entry : *members) {
        if (const Tensor& tensor = module.member(entry); tensor.defined()) {
          state.insert(prefix + entry.name, tensor.detach());
        }
      }
    }
  });
  return state;
}

StateDictMismatch Module::load_state_dict(const StateDict& state, bool strict) {
  const StateDict own = state_dict();
  StateDictMismatch mismatch;
  std::string problems;
  for (const auto& [name, target] : own) {
    const Tensor* source = state.find(name);
    if (!source) {
      if (!name.ends_with("num_batches_tracked")) mismatch.missing.push_back(name);
    } else if (!source->defined() || source->shape() != target.shape()) {
      problems += fmt::format("\n  wrong shape: {}: expected {}, got {}", name, to_string(target.shape()),
                              source->defined() ? to_string(source->shape()) : "an undefined tensor");
    }
  }
  for (const auto& [name, source] : state) {
    if (!own.contains(name)) mismatch.unexpected.push_back(name);
  }
  if (strict) {
    for (const std::string& name : mismatch.missing) problems += "\n  missing: " + name;
    for (const std::string& name : mismatch.unexpected) problems += "\n  unexpected: " + name;
  }
  LOCKSTEP_CHECK(problems.empty(), StateDictError, "load_state_dict", "the state dict does not fit {}:{}", type_name(),
                 problems);

  const NoGradGuard no_grad;
  for (auto [name, target] : own) {
    if (const Tensor* source = state.find(name)) target.copy_(*source);
  }
  return mismatch;
}

// ---- Printing.

std::string Module::type_name() const {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> demangled(
      abi::__cxa_demangle(typeid(*this).name(), nullptr, nullptr, &status), &std::free);
  std::string name = status == 0 ? demangled.get() : typeid(*this).name();
  // Drop namespaces, also "(anonymous namespace)" and the function around a local class, but not those inside <…>.
  const std::size_t scope = name.rfind("::", name.find('<'));
  if (scope != std::string::npos) name.erase(0, scope + 2);
  return name;
}

namespace {

/// Python's nn.Module.__repr__ indents all lines of a child's text but the first.
void append_indented(const std::string& text, std::string& out) {
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "  ";
  }
}

}  // namespace

std::string to_string(const Module& module) {
  const std::string extra = module.extra_repr();
  std::string text = module.type_name() + '(';
  if (module.children_.empty() && extra.find('\n') == std::string::npos) {
    text += extra;
  } else {
    if (!extra.empty()) {
      text += "\n  ";
      append_indented(extra, text);
    }
    for (std::size_t i = 0; i < module.children_.size(); ++i) {
      text += "\n  (" + module.children_[i].name + "): ";
      append_indented(to_string(module.child(i)), text);
    }
    text += '\n';
  }
  return text + ')';
}

std::ostream& operator<<(std::ostream& stream, const Module& module) { return stream << to_string(module); }

}  // namespace lockstep
