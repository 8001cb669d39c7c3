#include <lockstep/parallel/launch_env.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

/// Names of the variables of one launcher.
struct Source {
  const char *name, *rank, *size, *local_rank, *local_size;
};

constexpr std::array<Source, 3> kPlainSources{{
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
}};

/// The number at the start of `text`, which loses it; nothing where there is none, or a sign, or too many digits.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || text[0] == '-') return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

/// Reads variables of one source, all of which must be there.
class Reader {
 public:
  Reader(const char* source, const GetVariable& get) : source_(source), get_(get) {}

  std::string_view text(const char* name) const {
    const char* value = get_(name);
    LOCKSTEP_CHECK(value != nullptr, CommError, "launch_env", "expected all variables of {}, got no {}", source_, name);
    return value;
  }
  int number(const char* name) const {
    std::string_view rest = text(name);
    const std::optional<int> value = take_number(rest);
    LOCKSTEP_CHECK(value && rest.empty(), CommError, "launch_env", "expected a number in {}, got '{}'", name,
                   text(name));
    return *value;
  }

 private:
  const char* source_;
  const GetVariable& get_;
};

bool is_possible(const LaunchEnv& env) {
  return env.rank >= 0 && env.rank < env.size && env.local_rank >= 0 && env.local_rank < env.local_size &&
         env.local_size <= env.size;
}

void check_possible(const LaunchEnv& env) {
  LOCKSTEP_CHECK(is_possible(env), CommError, "launch_env", "expected ranks below their numbers, got {}",
                 to_string(env));
}

/// `known` stands for a missing place on the machine: Slurm sets PMI's variables without it.
std::optional<LaunchEnv> read(const Source& source, const GetVariable& get, const std::vector<LaunchEnv>& known = {}) {
  if (get(source.rank) == nullptr && get(source.size) == nullptr) return std::nullopt;
  const Reader reader(source.name, get);
  LaunchEnv env{.rank = reader.number(source.rank), .size = reader.number(source.size), .source = source.name};
  if (!known.empty() && get(source.local_rank) == nullptr && get(source.local_size) == nullptr) {
    env.local_rank = known[0].local_rank;
    env.local_size = known[0].local_size;
  } else {
    env.local_rank = reader.number(source.local_rank);
    env.local_size = reader.number(source.local_size);
  }
  check_possible(env);
  return env;
}

/// Entry `node` of a list like "4(x2),3", which stands for 4, 4, 3.
int tasks_on(int node, std::string_view list) {
  const std::string_view whole = list;
  while (!list.empty()) {
    const std::optional<int> tasks = take_number(list);
    std::optional<int> times = 1;
    if (list.starts_with("(x")) {
      list.remove_prefix(2);
      times = take_number(list);
      if (!list.starts_with(')')) break;
      list.remove_prefix(1);
    }
    if (!tasks || !times || (!list.empty() && list[0] != ',')) break;
    if (node < *times) return *tasks;
    node -= *times;
    if (!list.empty()) list.remove_prefix(1);
  }
  detail::fail<CommError>(
      "launch_env", "expected the tasks of each node, like 4(x2),3, in SLURM_STEP_TASKS_PER_NODE, got '{}'", whole);
}

/// Only what srun starts is a step; a batch script sees the variables of its job, but is one process.
std::optional<LaunchEnv> read_slurm(const GetVariable& get) {
  if (get("SLURM_STEP_ID") == nullptr) return std::nullopt;
  const Reader reader("Slurm", get);
  const LaunchEnv env{.rank = reader.number("SLURM_PROCID"),
                      .size = reader.number("SLURM_STEP_NUM_TASKS"),
                      .local_rank = reader.number("SLURM_LOCALID"),
                      .local_size = tasks_on(reader.number("SLURM_NODEID"), reader.text("SLURM_STEP_TASKS_PER_NODE")),
                      .source = "Slurm"};
  check_possible(env);
  return env;
}

bool agree(const LaunchEnv& a, const LaunchEnv& b) {
  return a.rank == b.rank && a.size == b.size && a.local_rank == b.local_rank && a.local_size == b.local_size;
}

/// Whether `outer` has started one process on each machine, which may be a launcher.
bool is_one_per_machine(const LaunchEnv& outer) { return outer.local_size == 1; }

}  // namespace

std::string to_string(const LaunchEnv& env) {
  return fmt::format("rank {} of {}, {} of {} on this machine, by {}", env.rank, env.size, env.local_rank,
                     env.local_size, env.source);
}

LaunchEnv launch_env(const std::optional<LaunchEnv>& argument, const GetVariable& get_variable) {
  if (argument) {
    LaunchEnv env = *argument;
    env.source = "an argument";
    LOCKSTEP_CHECK(is_possible(env), ValueError, "launch_env", "expected ranks below their numbers, got {}",
                   to_string(env));
    return env;
  }
  const GetVariable get =
      get_variable ? get_variable : [](const char* name) -> const char* { return std::getenv(name); };
  std::vector<LaunchEnv> found;  // in the order in which they count
  const auto add = [&](std::optional<LaunchEnv> env) {
    if (env) found.push_back(std::move(*env));
  };
  add(read(kPlainSources[0], get));
  add(read_slurm(get));
  add(read(kPlainSources[1], get));
  add(read(kPlainSources[2], get, found));
  if (found.empty()) return {};

  // Slurm may have started the mpirun, once on each machine, that has started this process: then the latter counts.
  if (found.size() > 1 && found[0].source == "Slurm" && !agree(found[0], found[1]) && is_one_per_machine(found[0])) {
    found.erase(found.begin());
  }
  for (const LaunchEnv& other : found) {
    const char* machine = get("GROUP_RANK");  // torchrun's number of this one
    const bool is_nested = found[0].source == "torchrun" && is_one_per_machine(other) && machine != nullptr &&
                           machine == std::to_string(other.rank);
    LOCKSTEP_CHECK(agree(found[0], other) || is_nested, CommError, "launch_env",
                   "expected launchers to agree, got {}, but {}", to_string(found[0]), to_string(other));
  }
  return found[0];
}

}  // namespace lockstep
