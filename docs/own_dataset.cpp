// The program of own_dataset.md.
#include <lockstep/lockstep.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace lockstep;

/// A file in MNIST's format, IDX: the bytes 0, 0, 8 and the number of dimensions, each size as 32 bits big-endian, and
/// then the values, bytes in row-major order.
class IdxFile {
 public:
  IdxFile(std::string path, int rank) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "rb"), close) {
    if (!file_) throw FileError("IdxFile", "expected the file " + path_ + ", got: " + std::strerror(errno));
    std::vector<std::uint8_t> header(4 + 4 * static_cast<std::size_t>(rank));
    read(0, header.data(), header.size());
    if (header[0] != 0 || header[1] != 0 || header[2] != 8 || header[3] != rank) {
      throw FileError("IdxFile", "expected bytes with " + std::to_string(rank) + " dimensions in " + path_);
    }
    for (std::size_t i = 4; i < header.size(); i += 4) {
      sizes.push_back(std::int64_t{header[i]} << 24 | header[i + 1] << 16 | header[i + 2] << 8 | header[i + 3]);
    }
    item_bytes_ = static_cast<std::size_t>(Shape(sizes).with(0, 1).numel());
  }

  /// Item `index` of dimension 0. pread has no file position: any number of threads may read at once.
  void read_item(std::int64_t index, std::uint8_t* out) const {
    read(4 + 4 * sizes.size() + static_cast<std::size_t>(index) * item_bytes_, out, item_bytes_);
  }

  std::vector<std::int64_t> sizes;

 private:
  static void close(std::FILE* file) {
    if (file) std::fclose(file);
  }
  void read(std::size_t offset, std::uint8_t* out, std::size_t bytes) const {
    if (pread(fileno(file_.get()), out, bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes)) {
      throw FileError("IdxFile", "expected " + std::to_string(offset + bytes) + " bytes in " + path_ + ", got fewer");
    }
  }

  std::string path_;
  std::shared_ptr<std::FILE> file_;
  std::size_t item_bytes_ = 0;
};

class Mnist : public Dataset {
 public:
  explicit Mnist(const std::string& folder)
      : images_(folder + "/train-images-idx3-ubyte", 3), labels_(folder + "/train-labels-idx1-ubyte", 1) {
    if (images_.sizes[0] != labels_.sizes[0]) throw FileError("Mnist", "expected a label for each image in " + folder);
  }

  std::int64_t size() const override { return images_.sizes[0]; }
  const std::vector<std::string>& classes() const override { return classes_; }

  ExampleView read(std::int64_t index, PixelBuffer& buffer) const override {
    const ImageView image{nullptr, 1, images_.sizes[1], images_.sizes[2]};
    buffer.resize(static_cast<std::size_t>(image.numel()));
    images_.read_item(index, buffer.data());
    std::uint8_t label = 0;
    labels_.read_item(index, &label);
    return {{buffer.data(), image.channels, image.height, image.width}, label};
  }

 private:
  IdxFile images_, labels_;
  std::vector<std::string> classes_ = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
};

/// With probability p, black for white.
class RandomInvert : public PixelTransform {
 public:
  explicit RandomInvert(float p) : p_(p) {}

  ImageView apply(const ImageView& image, PhiloxStream& draws, PixelBuffer& out) const override {
    if (draws.next_uniform() >= p_) return image;
    out.resize(static_cast<std::size_t>(image.numel()));
    std::transform(image.pixels, image.pixels + image.numel(), out.begin(),
                   [](int value) { return static_cast<std::uint8_t>(255 - value); });
    return {out.data(), image.channels, image.height, image.width};
  }
  std::string repr() const override { return "RandomInvert(p=" + std::to_string(p_) + ")"; }

 private:
  float p_;
};

/// Six "digits" of 5×4 pixels in MNIST's two files: digit d is d + 1 bright pixels.
void write_digits(const std::string& folder) {
  std::filesystem::create_directories(folder);
  std::ofstream images(folder + "/train-images-idx3-ubyte", std::ios::binary);
  std::ofstream labels(folder + "/train-labels-idx1-ubyte", std::ios::binary);
  images << std::string{0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 4};
  labels << std::string{0, 0, 8, 1, 0, 0, 0, 6};
  for (int digit = 0; digit < 6; ++digit) {
    for (int pixel = 0; pixel < 20; ++pixel) images.put(pixel % 4 == 2 && pixel / 4 <= digit ? '\xff' : '\0');
    labels.put(static_cast<char>(digit));
  }
}

void look_at_an_example(const Dataset& dataset) {
  const Example example = dataset.get(2);
  std::cout << dataset.size() << " images; number 2 is a " << dataset.classes()[static_cast<std::size_t>(example.label)]
            << ", " << to_string(example.image.shape()) << ":\n";
  const std::vector<std::uint8_t> pixels = example.image.to_vector<std::uint8_t>();
  for (std::size_t i = 0; i < pixels.size(); ++i) std::cout << (pixels[i] ? '#' : '.') << (i % 4 == 3 ? "\n" : "");
}

/// Everything that an epoch hands out.
std::vector<float> values_of(const DataLoader& loader, std::int64_t epoch) {
  std::vector<float> all;
  for (const Batch& batch : loader.epoch(epoch)) {
    const std::vector<float> values = batch.images.to_vector<float>();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

int main() {
  write_digits("digits");
  const auto mnist = std::make_shared<Mnist>("digits");
  look_at_an_example(*mnist);

  const Compose transform(RandomInvert(0.5f), ToTensor(), Normalize({0.1307}, {0.3081}));
  const DataLoader loader(mnist, transform, {.batch_size = 4, .shuffle = true, .seed = 7});
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (const Batch& batch : loader.epoch(epoch)) {
      std::cout << "epoch " << epoch << ": " << to_string(batch.images.shape()) << ", images";
      for (const std::int64_t index : batch.indices) std::cout << ' ' << index;
      std::cout << '\n';
    }
  }

  const DataLoader with_workers(mnist, transform, {.batch_size = 4, .shuffle = true, .seed = 7, .workers = 3});
  std::cout << "the same bits with 3 workers: " << std::boolalpha
            << (values_of(loader, 1) == values_of(with_workers, 1))
            << "\nthe same in another epoch: " << (values_of(loader, 0) == values_of(loader, 1)) << '\n';

  std::filesystem::resize_file("digits/train-images-idx3-ubyte", 100);
  try {
    values_of(with_workers, 0);
  } catch (const FileError& error) {
    std::cout << error.what() << '\n';
  }
}
