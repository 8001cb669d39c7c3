// Two ranks, of which one leaves when it should not: see faults.py for what must come of it.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include <lockstep/core/base/error.h>
#include <lockstep/parallel/mpi_process_group.h>

using namespace lockstep;

namespace {

void run(const std::string& fault) {
  LaunchEnv env = launch_env();
  if (fault == "is_elsewhere") env = {.rank = env.rank, .size = 8, .local_size = 8, .source = "torchrun"};
  const std::unique_ptr<ProcessGroup> group = mpi_process_group(env);
  const bool faulty = group->rank() == 1;
  const Tensor x = Tensor::ones({4});
  group->all_reduce(x).wait();
  if (faulty && fault.starts_with("throws")) throw std::runtime_error("planted");
  if (faulty && fault == "leaves") return;
  if (faulty && fault == "exits") std::_Exit(0);
  if (fault == "throws_alone") std::this_thread::sleep_for(std::chrono::seconds(60));
  group->all_reduce(x).wait();
}

}  // namespace

int main(int, char** argv) {
  try {
    run(argv[1]);
  } catch (const std::exception& error) {
    std::cerr << "caught: " << error.what() << std::endl;
    return 3;
  }
}
