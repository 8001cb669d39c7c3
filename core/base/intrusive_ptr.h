// A shared pointer to objects that carry their own reference count.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace lockstep {

/// Base of objects owned by IntrusivePtr. `Derived` is deleted when its last pointer goes.
template <class Derived>
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;

  void retain() const noexcept { count_.fetch_add(1, std::memory_order_relaxed); }  ///< one pointer more
  /// One pointer less; deletes the object with the last.
  void release() const noexcept {
    // The sole owner needs no atomic subtraction: nobody else can be copying a pointer that only it holds.
    if (count_.load(std::memory_order_acquire) == 1 || count_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      delete static_cast<const Derived*>(this);
    }
  }
  /// Number of pointers; exact only where no other thread can be copying or dropping one.
  std::uint32_t use_count() const noexcept { return count_.load(std::memory_order_acquire); }

 protected:
  ~RefCounted() = default;

 private:
  mutable std::atomic<std::uint32_t> count_{0};
};

/// How IntrusivePtr counts; overloaded for types that are incomplete where pointers to them are used.
template <class T>
void intrusive_retain(T* object) noexcept {
  object->retain();
}
/// Gives up what intrusive_retain took.
template <class T>
void intrusive_release(T* object) noexcept {
  object->release();
}

/// Points to an object that counts its pointers itself: the size of a plain pointer, one allocation. Thread-safe as
/// std::shared_ptr is.
template <class T>
class IntrusivePtr {
 public:
  IntrusivePtr() = default;
  /// Takes part in owning `object`; null is fine.
  explicit IntrusivePtr(T* object) noexcept : object_(object) {
    if (object_) intrusive_retain(object_);
  }
  IntrusivePtr(const IntrusivePtr& other) noexcept : IntrusivePtr(other.object_) {}
  IntrusivePtr(IntrusivePtr&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  IntrusivePtr& operator=(IntrusivePtr other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~IntrusivePtr() {
    if (object_) intrusive_release(object_);
  }

  T* get() const noexcept { return object_; }  ///< null if it points to nothing
  T* operator->() const noexcept { return object_; }
  T& operator*() const noexcept { return *object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

}  // namespace lockstep
