// A user's program: computes something, catches errors, prints the version it was compiled with.
#include <lockstep/lockstep.h>

#include <cstdio>
#include <cstring>

static_assert(LOCKSTEP_VERSION_MAJOR >= 0 && LOCKSTEP_VERSION_MINOR >= 0 && LOCKSTEP_VERSION_PATCH >= 0);

// Noted as the place of an error: a function of the user's, in a program without debug information.
[[gnu::noinline]] lockstep::Tensor takes_a_log(const lockstep::Tensor& x) {
  const lockstep::Tensor y = lockstep::log(x);
  return y * 2.0;
}

int main() {
  lockstep::Tensor x = lockstep::Tensor::ones({2, 3}).set_requires_grad();
  lockstep::sum(lockstep::matmul(x, lockstep::Tensor::full({3, 4}, 0.5))).backward();
  if (x.grad().to_vector<float>() != std::vector<float>(6, 2.0f)) return 1;
  try {
    lockstep::matmul(x, x);
    return 2;
  } catch (const lockstep::ShapeError& error) {
    if (std::strstr(error.what(), "[matmul]") == nullptr) return 3;
  }
  try {
    const lockstep::AnomalyMode anomaly;
    takes_a_log(x - 1.5);
    return 4;
  } catch (const lockstep::AnomalyError& error) {
    if (std::strstr(error.what(), "[log]") == nullptr) return 5;
    if (std::strstr(error.what(), "takes_a_log(lockstep::Tensor const&)") == nullptr) return 6;
  }
  std::puts(LOCKSTEP_VERSION);
}
