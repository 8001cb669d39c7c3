// What the running program's own files say: names of kernels, and which addresses hold constants.
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <lockstep/kernels/cuda/emulation/emulator.h>

namespace lockstep::emulation {
namespace {

struct Program {
  std::unordered_map<std::uintptr_t, std::string> functions;         // mangled, by address
  std::vector<std::pair<std::uintptr_t, std::uintptr_t>> constants;  // segments: begin, end
};

/// Adds the functions of an ELF file that is loaded at `base`.
void add_functions(Program& program, const char* path, std::uintptr_t base) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (file < 0) return;
  void* mapped = MAP_FAILED;
  if (fstat(file, &info) == 0) {
    mapped = mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  }
  close(file);
  if (mapped == MAP_FAILED) return;
  const auto* image = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const char* names = image + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(image + sections[i].sh_offset);
    for (std::size_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); ++s) {
      const bool is_kernel_like = ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC && symbols[s].st_value != 0;
      const char* name = names + symbols[s].st_name;
      if (is_kernel_like && std::strstr(name, "kernel")) program.functions.emplace(base + symbols[s].st_value, name);
    }
  }
  munmap(mapped, static_cast<std::size_t>(info.st_size));
}

int add_file(dl_phdr_info* info, std::size_t, void* data) {
  auto& program = *static_cast<Program*>(data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const bool constant =
        (segment.p_type == PT_LOAD && (segment.p_flags & PF_W) == 0) || segment.p_type == PT_GNU_RELRO;
    const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (constant) program.constants.emplace_back(begin, begin + segment.p_memsz);
  }
  // The program itself has no name here.
  add_functions(program, info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe", info->dlpi_addr);
  return 0;
}

const Program& program() {
  static const Program& instance = []() -> Program& {
    auto& made = *new Program;
    dl_iterate_phdr(add_file, &made);
    return made;
  }();
  return instance;
}

}  // namespace

const char* mangled_name(const void* function) {
  const auto found = program().functions.find(reinterpret_cast<std::uintptr_t>(function));
  return found == program().functions.end() ? nullptr : found->second.c_str();
}

std::string kernel_name(const void* function) {
  static auto& names = *new std::unordered_map<const void*, std::string>;
  auto& name = names[function];
  if (!name.empty()) return name;
  const char* mangled = mangled_name(function);
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      mangled ? abi::__cxa_demangle(mangled, nullptr, nullptr, &status) : nullptr, std::free);
  if (!text) return name = mangled ? mangled : "a kernel without a symbol";
  name = text.get();
  // Function templates are demangled with their result: "void ns::add_kernel<float>(float*)". The parameters begin at
  // the parenthesis that matches the last one.
  std::size_t end = name.size();
  int depth = 0;
  for (std::size_t i = name.size(); i-- > 0;) {
    depth += name[i] == ')' ? 1 : name[i] == '(' ? -1 : 0;
    if (depth == 0 && name[i] == '(') {
      end = i;
      break;
    }
  }
  name.resize(end);
  if (name.starts_with("void ")) name.erase(0, 5);
  for (const char* space : {"(anonymous namespace)::", "lockstep::cuda::"}) {
    for (std::size_t at = 0; (at = name.find(space)) != std::string::npos;) name.erase(at, std::strlen(space));
  }
  return name;
}

bool is_constant(std::uintptr_t address, std::size_t bytes) {
  for (const auto& [begin, end] : program().constants) {
    if (address >= begin && address + bytes <= end) return true;
  }
  return false;
}

}  // namespace lockstep::emulation
