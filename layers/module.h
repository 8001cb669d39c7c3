// Module: the base of layers and models, and what they share: named parameters, train/eval, state dicts, hooks,
// printing.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <lockstep/core/io/state_dict.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

class Module;

/// Called after each forward of a module with its input and output.
using ForwardHook = std::function<void(Module& module, const Tensor& input, const Tensor& output)>;

namespace detail {

/// The hooks of one module. They stay with it: a copy of a module has none.
class ForwardHooks {
 public:
  using List = std::vector<std::pair<std::uint64_t, ForwardHook>>;

  ForwardHooks() = default;
  ForwardHooks(const ForwardHooks&) {}
  ForwardHooks(ForwardHooks&&) = default;
  ForwardHooks& operator=(const ForwardHooks&) { return *this; }
  ForwardHooks& operator=(ForwardHooks&&) = default;

  std::shared_ptr<List> list;
};

/// A module on the heap that can be copied without knowing its type.
class ModuleBox {
 public:
  template <class M>
  explicit ModuleBox(M module);
  ModuleBox(const ModuleBox& other);
  ModuleBox(ModuleBox&&) = default;
  ModuleBox& operator=(ModuleBox other) noexcept;

  Module* get() const { return module_.get(); }

 private:
  std::unique_ptr<Module> module_;
  std::unique_ptr<Module> (*copy_)(const Module&);
};

}  // namespace detail

/// Takes a hook away again. Does nothing when the module is gone.
class HookHandle {
 public:
  HookHandle() = default;
  void remove();  ///< the hook is not called again

 private:
  friend class Module;
  std::weak_ptr<detail::ForwardHooks::List> list_;
  std::uint64_t id_ = 0;
};

/// What did not match in a load_state_dict that was not strict.
struct StateDictMismatch {
  std::vector<std::string> missing;     ///< in the module, not in the dict
  std::vector<std::string> unexpected;  ///< in the dict, not in the module
};

/// A layer or a model. Its parameters, buffers and children are ordinary data members, made known by name in the
/// constructor:
///
///     struct Net : Module {
///       Conv2d conv{3, 16, 3};
///       Linear fc{16, 10};
///       Net() {
///         register_module("conv", conv);
///         register_module("fc", fc);
///       }
///       Tensor forward(const Tensor& x) override { return fc(mean(relu(conv(x)), {2, 3})); }
///     };
///
/// Copying a module copies handles: the copy has its own structure and mode but shares parameters, buffers and
/// gradients. clone() makes an independent one. Members can be replaced by assignment (`model.fc = Linear(512, 10)`).
class Module {
 public:
  virtual ~Module() = default;

  /// The computation. Modules with another signature leave it out; then it throws ValueError.
  virtual Tensor forward(const Tensor& x);
  /// forward(), then the hooks.
  Tensor operator()(const Tensor& x);

  // ---- Recursion over the children. Names are dotted paths as in PyTorch ("layer1.0.conv1.weight"), in order of
  // registration. Undefined tensors (no bias) are left out.

  /// Every parameter; one registered in two places is listed once, under its first name.
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;
  std::vector<Tensor> parameters() const;  ///< the same without names: what optimizers take
  /// Every buffer, likewise.
  std::vector<std::pair<std::string, Tensor>> named_buffers() const;
  /// This module (under the name ""), its children, their children, each before its own children.
  std::vector<std::pair<std::string, Module*>> named_modules();

  /// Training mode, which batch norm and dropout look at, for this module and all below.
  void train(bool on = true);
  void eval() { train(false); }                   ///< evaluation mode, likewise
  bool is_training() const { return training_; }  ///< true at the start

  /// Moves parameters and floating-point buffers; integer buffers are counters kept by the host. Tensors that are not
  /// there already are replaced by new ones without a gradient: make optimizers after this. Throws DeviceError if there
  /// is no such device.
  void to(Device device);
  /// Converts parameters and floating-point buffers, in the same way. Throws DTypeError unless `dtype` is floating.
  void to(DType dtype);
  /// Replaces each parameter and buffer by `convert` of it (torch's _apply); what was one tensor stays one, and what
  /// takes part in training goes on doing so. Nothing is replaced if a call throws.
  void convert_tensors(const std::function<Tensor(const Tensor&)>& convert);
  /// Drops the gradients of all parameters.
  void zero_grad();
  /// Makes all parameters take part in training, or none.
  void requires_grad(bool on = true);

  /// Parameters and buffers by name, sharing memory, without their place on the tape.
  StateDict state_dict() const;
  /// Copies values into parameters and buffers, converting dtypes and layouts. Throws StateDictError listing all
  /// missing, unexpected and mis-shaped entries at once, and then changes nothing. With `strict` false only wrong
  /// shapes throw, and the rest is returned. `num_batches_tracked` may be missing, as it is in files from before
  /// PyTorch 0.4.1.
  StateDictMismatch load_state_dict(const StateDict& state, bool strict = true);

  /// Calls `hook` after each forward of this module. Fused blocks compute in parts while a hook is set on one of them.
  HookHandle register_forward_hook(ForwardHook hook);
  /// Whether a hook is set on this module itself.
  bool has_forward_hooks() const { return hooks_.list && !hooks_.list->empty(); }

  /// The class name, as printed.
  virtual std::string type_name() const;
  /// What is printed between the parentheses: "3, 64, kernel_size=(7, 7)".
  virtual std::string extra_repr() const { return {}; }

 protected:
  Module() = default;
  Module(const Module&) = default;
  Module(Module&&) = default;
  Module& operator=(const Module&) = default;
  Module& operator=(Module&&) = default;

  // The tensor or module must be a data member of this object itself (not an element of a vector member, nor behind a
  // pointer), since copies find theirs at the same place. Throws ValueError for anything else where that can be seen,
  // for an empty name, one with a dot, and one that is taken.

  /// Makes a leaf of it that requires a gradient. An undefined tensor is registered too, as absent.
  void register_parameter(std::string name, Tensor& parameter);
  void register_buffer(std::string name, Tensor& buffer);  ///< state that is not trained
  void register_module(std::string name, Module& child);   ///< a layer that is a data member
  /// Adds a child that this module owns on the heap.
  void register_module(std::string name, detail::ModuleBox child);

  /// Owned children and registered members alike, in order.
  std::size_t num_children() const { return children_.size(); }
  Module& child(std::size_t index) const;  ///< in order of registration
  /// The box of a child that was registered in one. Throws ValueError for a data member.
  const detail::ModuleBox& owned_child(std::size_t index) const;

 private:
  struct TensorMember {
    std::string name;
    std::ptrdiff_t offset;  // from this
  };
  struct Child {
    std::string name;
    std::ptrdiff_t offset;  // from this, unless owned
    std::optional<detail::ModuleBox> owned;
  };

  Tensor& member(const TensorMember& tensor) const;
  void check_name(const std::string& name) const;
  std::ptrdiff_t offset_of(const std::string& name, const void* member) const;
  /// Calls `visit(prefix, module)` in the order of named_modules(); the prefix ends in a dot.
  void visit_modules(const std::string& prefix, const std::function<void(const std::string&, Module&)>& visit) const;
  void replace_with_clones();

  template <std::derived_from<Module> M>
  friend M clone(const M& module);
  friend std::string to_string(const Module& module);

  std::vector<TensorMember> parameters_;
  std::vector<TensorMember> buffers_;
  std::vector<Child> children_;
  detail::ForwardHooks hooks_;
  bool training_ = true;
};

/// A copy with memory of its own, in the same mode, without gradients and hooks. Tensors shared within the module are
/// shared within the copy.
template <std::derived_from<Module> M>
M clone(const M& module) {
  M copy = module;
  copy.replace_with_clones();
  return copy;
}

/// The text that Python's print(module) shows.
std::string to_string(const Module& module);
std::ostream& operator<<(std::ostream& stream, const Module& module);

namespace detail {

template <class M>
ModuleBox::ModuleBox(M module)
    : module_(std::make_unique<M>(std::move(module))), copy_([](const Module& source) -> std::unique_ptr<Module> {
        return std::make_unique<M>(static_cast<const M&>(source));
      }) {}

}  // namespace detail
}  // namespace lockstep
