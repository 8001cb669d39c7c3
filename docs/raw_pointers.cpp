// The program of raw_pointers.md.
#include <lockstep/lockstep.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <vector>

using namespace lockstep;

// Stand-ins for other people's libraries.
extern "C" void scale_in_place(float* values, std::size_t count, float factor) {
  for (std::size_t i = 0; i < count; ++i) values[i] *= factor;
}
extern "C" unsigned char* camera_grab(int height, int width) {  // RGB, pixel by pixel; release with camera_release
  auto* frame = static_cast<unsigned char*>(std::malloc(static_cast<std::size_t>(3 * height * width)));
  for (int i = 0; i < 3 * height * width; ++i) frame[i] = static_cast<unsigned char>(i);
  return frame;
}
extern "C" void camera_release(unsigned char* frame) {
  std::puts("camera_release");
  std::free(frame);
}

void print(const char* what, const Tensor& x) {
  std::printf("%s:", what);
  for (const double value : x.to_vector<double>()) std::printf(" %g", value);
  std::putchar('\n');
}

void your_memory_as_a_tensor() {
  std::vector<float> values = {1, 2, 3, 4, 5, 6};
  Tensor x = Tensor::from_blob(values.data(), {2, 3});
  x.mul_(10.0);
  values[0] = -1.0f;
  print("x", x);
  std::printf("values[5] = %g\n", values[5]);
}

void memory_with_an_owner() {
  unsigned char* frame = camera_grab(2, 2);
  const std::shared_ptr<void> owner(frame, [](void* p) { camera_release(static_cast<unsigned char*>(p)); });
  Tensor image =
      Tensor::from_blob(frame, {1, 3, 2, 2}, {.dtype = DType::uint8, .layout = Layout::channels_last}, owner);
  print("red, green, blue planes", image);
}

Tensor first_frame() {
  unsigned char* frames = camera_grab(4, 2);  // two frames of 2×2, one after the other
  const Tensor both = Tensor::from_blob(frames, {2, 3, 2, 2}, {.dtype = DType::uint8, .layout = Layout::channels_last},
                                        {frames, [](void* p) { camera_release(static_cast<unsigned char*>(p)); }});
  return narrow(both, 0, 0, 1);
}

void a_tensors_memory() {
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4}, {2, 2});
  scale_in_place(x.data<float>(), static_cast<std::size_t>(x.numel()), 0.5f);
  print("x", x);
  try {
    x.data<double>();
  } catch (const DTypeError& error) {
    std::puts(error.what());
  }
}

void two_layouts() {
  const Tensor image = reshape(Tensor::arange(8), {1, 2, 2, 2}).to(DType::float32).to(Layout::channels_last);
  const float* memory = image.data<float>();
  std::printf("in memory: %g %g %g …\n", memory[0], memory[1], memory[2]);
  const Tensor planes = image.to(Layout::row_major);
  std::printf("as planes: %g %g %g …\n", planes.data<float>()[0], planes.data<float>()[1], planes.data<float>()[2]);
}

std::shared_ptr<const float> share(const Tensor& x) {
  return {x.data<float>(), [x](const float*) {}};
}

void a_reader_that_outlives_us() {
  std::future<float> sum;
  {
    const Tensor x = Tensor::ones({1000});
    sum = std::async(std::launch::async, [memory = share(x), count = x.numel()] {
      float total = 0.0f;
      for (std::int64_t i = 0; i < count; ++i) total += memory.get()[i];
      return total;
    });
  }
  std::printf("sum = %g\n", sum.get());
}

void what_the_tape_sees() {
  Tensor x = Tensor::full({2}, 3.0).set_requires_grad();
  const Tensor y = sum(x * x);
  {
    const NoGradGuard no_grad;
    x.mul_(2.0);
  }
  try {
    y.backward();
  } catch (const AutogradError& error) {
    std::puts(error.what());
  }
}

int main() {
  your_memory_as_a_tensor();
  memory_with_an_owner();
  {
    const Tensor frame = first_frame();
    std::printf("the view has %lld bytes\n", static_cast<long long>(frame.nbytes()));
  }
  a_tensors_memory();
  two_layouts();
  a_reader_that_outlives_us();
  what_the_tape_sees();
}
