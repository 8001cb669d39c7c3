#include <lockstep/parallel/launch_env.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>

#include <lockstep/core/base/error.h>

using namespace lockstep;
using Catch::Matchers::Contains;
using Variables = std::map<std::string, std::string>;

namespace {

const Variables kTorchrun{
    {"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}, {"GROUP_RANK", "1"}};
const Variables kSlurm{{"SLURM_STEP_ID", "0"},
                       {"SLURM_PROCID", "5"},
                       {"SLURM_STEP_NUM_TASKS", "8"},
                       {"SLURM_LOCALID", "1"},
                       {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                       {"SLURM_NODEID", "1"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "5"},
                         {"OMPI_COMM_WORLD_SIZE", "8"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
const Variables kPmi{{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "4"}};

/// `first`, and what it lacks of `second`.
Variables operator+(Variables first, const Variables& second) {
  first.insert(second.begin(), second.end());
  return first;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

LaunchEnv env_of(const Variables& variables) {
  return launch_env({}, [&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

void check_env(const Variables& variables, const std::string& expected) {
  CHECK(to_string(env_of(variables)) == expected);
}

/// Slurm has started one process on each of two machines, of which this is the second.
const Variables kSlurmPerNode = Variables{{"SLURM_PROCID", "1"},
                                          {"SLURM_STEP_NUM_TASKS", "2"},
                                          {"SLURM_LOCALID", "0"},
                                          {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"}} +
                                kSlurm;

}  // namespace

TEST_CASE("Each launcher's variables are read") {
  check_env({}, "rank 0 of 1, 0 of 1 on this machine, by a single process");
  check_env(kTorchrun, "rank 5 of 8, 1 of 4 on this machine, by torchrun");
  check_env(kSlurm, "rank 5 of 8, 1 of 4 on this machine, by Slurm");
  check_env(kOpenMpi, "rank 5 of 8, 1 of 4 on this machine, by Open MPI");
  check_env(kPmi, "rank 5 of 8, 1 of 4 on this machine, by PMI");
  const Variables uneven = Variables{{"SLURM_STEP_TASKS_PER_NODE", "2(x1),1,5(x3)"}} + kSlurm;
  CHECK(env_of(Variables{{"SLURM_NODEID", "1"}, {"SLURM_LOCALID", "0"}} + uneven).local_size == 1);
  CHECK(env_of(Variables{{"SLURM_NODEID", "4"}} + uneven).local_size == 5);
}

TEST_CASE("The process's own variables are read where no function is given") {
  const char* names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
  for (const char* name : names) REQUIRE(std::getenv(name) == nullptr);
  for (const char* name : names) setenv(name, kTorchrun.at(name).c_str(), 1);
  const LaunchEnv env = launch_env();
  for (const char* name : names) unsetenv(name);
  CHECK(env.rank == 5);
}

TEST_CASE("The first of argument, torchrun, Slurm, Open MPI, PMI counts") {
  const Variables all = kTorchrun + kSlurm + kOpenMpi + kPmi;
  CHECK(env_of(all).source == "torchrun");
  CHECK(env_of(kSlurm + kOpenMpi + kPmi).source == "Slurm");
  CHECK(env_of(kOpenMpi + kPmi).source == "Open MPI");
  const LaunchEnv argument = launch_env(LaunchEnv{.rank = 1, .size = 2}, [](const char*) { return "7"; });
  CHECK(to_string(argument) == "rank 1 of 2, 0 of 1 on this machine, by an argument");
}

TEST_CASE("A launcher may start another one, once on each machine") {
  CHECK(env_of(kTorchrun + kSlurmPerNode).source == "torchrun");
  CHECK(env_of(kOpenMpi + kSlurmPerNode).source == "Open MPI");
  CHECK(env_of(kPmi + kSlurmPerNode).source == "PMI");
  // A batch script sees its job's variables, but is no step.
  CHECK(env_of(without(kSlurm, "SLURM_STEP_ID")).size == 1);
  CHECK(env_of(without(kSlurm, "SLURM_STEP_ID") + kOpenMpi).source == "Open MPI");
  // Slurm's own PMI tells no place on the machine.
  CHECK(env_of(kSlurm + Variables{{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}}).local_rank == 1);
}

TEST_CASE("Launchers that disagree are an error that names both") {
  const auto check_both = [](const Variables& variables, const std::string& first, const std::string& second) {
    CAPTURE(first, second);
    CHECK_THROWS_AS(env_of(variables), CommError);
    CHECK_THROWS_WITH(env_of(variables), Contains(first) && Contains(second));
  };
  const std::string torchrun = to_string(env_of(kTorchrun)), slurm = to_string(env_of(kSlurm)),
                    open_mpi = to_string(env_of(kOpenMpi));
  check_both(Variables{{"OMPI_COMM_WORLD_RANK", "4"}} + kTorchrun + kOpenMpi, torchrun,
             "rank 4 of 8, 1 of 4 on this machine, by Open MPI");
  check_both(Variables{{"OMPI_COMM_WORLD_SIZE", "9"}} + kTorchrun + kOpenMpi, torchrun,
             "rank 5 of 9, 1 of 4 on this machine, by Open MPI");
  check_both(Variables{{"OMPI_COMM_WORLD_LOCAL_RANK", "2"}} + kSlurm + kOpenMpi, slurm,
             "rank 5 of 8, 2 of 4 on this machine, by Open MPI");
  check_both(Variables{{"PMI_SIZE", "16"}} + kOpenMpi + kPmi, open_mpi, "by PMI");
  check_both(Variables{{"SLURM_PROCID", "6"}} + kTorchrun + kSlurm, torchrun, "by Slurm");
  // One process per machine, but not those that torchrun says it runs on.
  check_both(Variables{{"GROUP_RANK", "0"}} + kTorchrun + kSlurmPerNode, torchrun, "by Slurm");
  check_both(without(kTorchrun, "GROUP_RANK") + kSlurmPerNode, torchrun, "by Slurm");
}

TEST_CASE("Variables that are missing, no numbers, or cannot be are errors") {
  for (const Variables& variables : {kTorchrun, kSlurm, kOpenMpi, kPmi}) {
    for (const auto& [name, value] : variables) {
      if (name == "GROUP_RANK" || name == "SLURM_STEP_ID") continue;
      CAPTURE(name);
      CHECK_THROWS_AS(env_of(without(variables, name)), CommError);
      CHECK_THROWS_WITH(env_of(without(variables, name)), Contains("got no " + name));
      for (const std::string bad : {"", "x", "1x", "-1", " 1", "1.5", "99999999999"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS(env_of(Variables{{name, bad}} + variables), CommError);
        CHECK_THROWS_WITH(env_of(Variables{{name, bad}} + variables), Contains("'" + bad + "'"));
      }
    }
  }
  for (const std::string bad : {"4(x2", "4(2)", "4,", "4(x2)3", "4(x)", "4(x1)"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(env_of(Variables{{"SLURM_STEP_TASKS_PER_NODE", bad}} + kSlurm), CommError);
  }
  CHECK_THROWS_WITH(env_of(Variables{{"RANK", "8"}} + kTorchrun), Contains("got rank 8 of 8"));
  CHECK_THROWS_WITH(env_of(Variables{{"WORLD_SIZE", "0"}} + kTorchrun), Contains("got rank 5 of 0"));
  CHECK_THROWS_WITH(env_of(Variables{{"LOCAL_RANK", "4"}} + kTorchrun), Contains("4 of 4 on this machine"));
  CHECK_THROWS_WITH(env_of(Variables{{"LOCAL_WORLD_SIZE", "9"}} + kTorchrun), Contains("1 of 9 on this machine"));
  CHECK_THROWS_AS(launch_env(LaunchEnv{.rank = 2, .size = 2}), ValueError);
  CHECK_THROWS_AS(launch_env(LaunchEnv{.rank = -1, .size = 2}), ValueError);
  CHECK_THROWS_AS(launch_env(LaunchEnv{.local_rank = 1}), ValueError);
}
