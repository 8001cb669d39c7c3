// The exceptions that Lockstep throws. All derive from `Error`; what() reads "[op] what was expected, what came".
#pragma once

#include <stdexcept>
#include <string>

namespace lockstep {

/// Base of every exception thrown by the library.
class Error : public std::runtime_error {
 public:
  /// `op` is the public function that refused, e.g. "conv2d"; `message` says what was expected and what came.
  Error(const std::string& op, const std::string& message) : std::runtime_error("[" + op + "] " + message), op_(op) {}

  /// The public function that threw.
  const std::string& op() const noexcept { return op_; }

 private:
  std::string op_;
};

/// A wrong number of dimensions or a wrong size, sizes that overflow included.
class ShapeError : public Error {
  using Error::Error;
};

/// A dtype that the operation does not take, or two that do not go together.
class DTypeError : public Error {
  using Error::Error;
};

/// A device that does not exist in this build or on this machine, or tensors on different devices.
class DeviceError : public Error {
  using Error::Error;
};

/// A value outside its range: a negative size, a probability over 1, a label that no class has.
class ValueError : public Error {
  using Error::Error;
};

/// Misuse of the tape: a second backward, a saved tensor changed in place, a gradient that does not exist.
class AutogradError : public Error {
  using Error::Error;
};

/// What AnomalyMode finds: an op that makes a NaN, or whose backward makes one or throws.
class AnomalyError : public AutogradError {
  using AutogradError::AutogradError;
};

/// A file that is missing, damaged, or holds something else than it should.
class FileError : public Error {
  using Error::Error;
};

/// A state dict whose keys, shapes or dtypes do not fit the model.
class StateDictError : public Error {
  using Error::Error;
};

/// Ranks that do not agree on what they do together, one that is gone, or a transport that fails.
class CommError : public Error {
  using Error::Error;
};

/// Memory could not be had. The message says how much was asked for and how much is in use.
class OutOfMemoryError : public Error {
  using Error::Error;
};

}  // namespace lockstep
