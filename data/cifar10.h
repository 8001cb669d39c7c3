// CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009): 50,000 training and 10,000
// test images of 32×32 pixels in 10 classes, in the binary version from https://www.cs.toronto.edu/~kriz/cifar.html.
#pragma once

#include <filesystem>

#include <lockstep/data/tensor_dataset.h>

namespace lockstep {

/// One split of CIFAR-10. The constructor checks that the files are there and have the right size; their contents are
/// read at first use (with num_threads() threads), so that a test split costs nothing until it is needed.
class Cifar10 : public TensorDataset {
 public:
  /// `root` is a folder that holds `cifar-10-batches-bin`, or that folder itself, or a folder that holds
  /// `cifar-10-binary.tar.gz`, or that archive. An archive is unpacked once, beside itself. Throws FileError that names
  /// the file that is missing, short, long or damaged, what was expected, and how to get the data; a label outside 0…9,
  /// found at first use, is named with its record.
  Cifar10(const std::filesystem::path& root, Split split);

  /// The archive at its official address.
  static constexpr const char* kUrl = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";

  /// Makes `root` a folder that the constructor takes: downloads the archive (170 MB, with a progress bar; an
  /// interrupted download goes on where it stopped), checks its SHA-256 and unpacks it. Does nothing if the data is
  /// there. Throws FileError.
  static void download(const std::filesystem::path& root);

 private:
  Cifar10(Split split, const std::filesystem::path& folder);
  Contents load() const override;

  std::filesystem::path folder_;
  Split split_;
};

}  // namespace lockstep
