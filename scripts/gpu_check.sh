#!/usr/bin/env bash
# Checks a build with CUDA on a machine with a GPU: its tests, the kernels' tests under compute-sanitizer, and the trainer and
# the benchmarks beside PyTorch where that is installed. Each step leaves <step>.log and <step>.result in the folder of results;
# steps that have passed or failed are not run again, so a run that was stopped goes on where it was. summary.md tells it all.
#
#   scripts/gpu_check.sh [option...] [build folder]    by default build/cuda, which is built first; in a pack, the pack's
#     --out DIR      the folder of results (gpu_check_results)
#     --part NAME    only tests, memcheck, racecheck, initcheck, synccheck, train or benchmarks; or a step: memcheck.sgd_test
#     --seconds N    start nothing more, and stop what runs, after so many seconds (540)
#     --data DIR     CIFAR-10's binary version for the trainers; else images are made up
#     --pack DIR     instead copy what a machine without the toolchain needs into DIR; run DIR/scripts/gpu_check.sh there
#
# Ends with 1 if a step has failed, with 2 if steps are left to run, else with 0. What has no GPU or no program to run is skipped.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/cuda out=gpu_check_results part= seconds=540 data= pack= given=
while (($#)); do
  case $1 in
    --out | --part | --seconds | --data | --pack) declare "${1#--}=${2:?$1 needs a value}" && shift ;;
    -*) echo "gpu_check: unknown option $1; see the top of $0" >&2 && exit 64 ;;
    *) build=$(realpath -e "$1") && given=yes || exit 64 ;;
  esac
  shift
done
if [[ -e $root/build.tar.gz ]]; then
  [[ -e $build ]] || tar -xzf "$root/build.tar.gz" -C "$root" || exit 1
elif [[ -z $given ]]; then
  "$root/scripts/build.sh" cuda || exit 1
fi

# ---- What the build and this machine have.

# Prints the folders nvidia/*/<name> of Python's packages.
wheels() {
  python3 -c "import glob, sys; print('\n'.join(d for p in sys.path for d in glob.glob(p + '/nvidia/*/$1')))" 2> /dev/null
}

if [[ -n $pack ]]; then
  mkdir -p "$pack/build/cuda/lib" && pack=$(realpath "$pack") || exit 64
  programs=()
  for program in tests/lockstep_{cuda,kernels,training}_tests examples/train_resnet18_cifar10 benchmarks/{train_step,ops}; do
    [[ -x $build/$program ]] || { echo "gpu_check: no $program in $build" >&2 && continue; }
    install -D -s "$build/$program" "$pack/build/cuda/$program"
    programs+=("$build/$program")
  done
  # Not NVIDIA's, which come with PyTorch or the toolkit, nor the C library, which must be the machine's own.
  ldd "${programs[@]}" | awk '$3 ~ "^/" { print $3 }' | sort -u |
    grep -Ev '/lib(cudnn|cublas|cuda|nvrtc|nccl|c\.|m\.|dl\.|rt\.|pthread\.|resolv\.)[^/]*$' | xargs cp -Lt "$pack/build/cuda/lib"
  tar -czf "$pack/build.tar.gz" -C "$pack" build && rm -r "$pack/build"  # the first run unpacks it
  for file in scripts/gpu_check.sh benchmarks/compare.py benchmarks/pytorch/{train_step,train_cifar10}.py; do
    install -D "$root/$file" "$pack/$file"
  done
  echo "gpu_check: $(du -sm "$pack" | cut -f 1) MB in $pack"
  exit
fi

mkdir -p "$out" && out=$(realpath "$out") || exit 64
libraries=$(printf '%s\n' "$build/lib" $(wheels lib) /usr/local/cuda/lib64 | paste -sd :)
sanitizer=$(command -v compute-sanitizer || find /usr/local/cuda*/bin /usr/local/cuda*/compute-sanitizer $(wheels .) \
  -name compute-sanitizer -type f 2> /dev/null | head -n 1)
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null) || gpu=
torch=$(python3 -c 'import torch, torchvision as _
print(torch.__version__, "with CUDA" if torch.cuda.is_available() else "without")' 2> /dev/null)

# ---- Steps.

steps=()
asked() { [[ -z $part || $1 == "$part" || $1 == "$part".* ]]; }
# step <name> <limit in seconds> <command...>: runs it, unless it is done, not asked for, or $skip says why it cannot be.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0 word=pass result left
  shift 2
  steps+=("$name")
  asked "$name" || return 0
  result=$out/$name.result
  if [[ -e $result ]] && ! grep -q '^skip' "$result"; then return; fi
  if [[ -n $skip ]]; then
    echo "skip: $skip" > "$result"
    return
  fi
  rm -f "$result"
  left=$((seconds - SECONDS))
  ((left > 0)) || return 0
  echo "gpu_check: $name"
  timeout -k 5 "$((left < limit ? left : limit))" "$@" > "$out/$name.log" 2>&1 < /dev/null || status=$?
  if ((status == 124 || status == 137)); then
    ((left >= limit)) || return 0  # the time for all was over: to be run again
    word="fail: not done in $limit s"
  elif ((status != 0)); then
    word="fail: status $status"
  elif grep -q 'skipped without a CUDA device' "$out/$name.log"; then
    word="fail: it sees no CUDA device"
  fi
  echo "$word; $((SECONDS - begin)) s; $(grep -E '^All tests passed|^test cases:|ERROR SUMMARY|Test accuracy' "$out/$name.log" |
    tail -n 2 | tr -s '=\n' ' ')" > "$result"
}
ours() { step "$1" "$2" env LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "${@:3}"; }

no_gpu=
[[ -n $gpu ]] || no_gpu="no GPU here"
tests=$build/tests/lockstep_cuda_tests
no_tests=$no_gpu
[[ -x $tests ]] || no_tests=${no_gpu:-"no lockstep_cuda_tests in $build"}

# The files of CUDA tests are their tags; op_registry, library and training run NVIDIA's kernels for the most part.
files=$(LD_LIBRARY_PATH=$libraries "$tests" '-#' --list-tags 2> /dev/null | grep -oE '#\w+_test')
for file in ${files:-#all}; do
  skip=$no_tests ours "tests.${file#\#}" 300 "$tests" '-#' --warn NoTests "[$file]~[slow]"
done
for program in "$build"/tests/lockstep_{kernels,training,layers,data,core}_tests; do
  [[ ! -x $program ]] || skip=$no_gpu ours "tests.$(basename "$program")" 300 "$program" '~[slow]~[parity]'
done

no_sanitizer=$no_tests
[[ -n $sanitizer ]] || no_sanitizer=${no_tests:-"no compute-sanitizer here"}
for tool in memcheck racecheck initcheck synccheck; do
  for file in ${files:-#all}; do
    [[ ! $file =~ op_registry|library|training ]] || continue
    skip=$no_sanitizer ours "$tool.${file#\#}" 120 "$sanitizer" --tool "$tool" --error-exitcode 86 \
      "$tests" '-#' --warn NoTests "[$file]~[slow]"
  done
done

# Puts the time before each line of a command's output.
stamped=(bash -c '"$@" | while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done; exit "${PIPESTATUS[0]}"' -)
no_torch=$no_gpu
[[ $torch == *"with CUDA" ]] || no_torch=${no_gpu:-"no PyTorch with CUDA here"}
images=${data:-$out/images}
if [[ -z $no_torch && ! -e $images && (-z $part || $part == train*) ]]; then
  python3 - "$images" << 'PYTHON'
import pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1]) / "cifar-10-batches-bin"
folder.mkdir(parents=True)
random = np.random.default_rng(0)
shapes = random.integers(0, 256, (10, 3, 4, 4)).repeat(8, 2).repeat(8, 3).reshape(10, 3072)  # one for each class, under noise
for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
    labels = random.integers(0, 10, 10_000)
    pixels = 0.3 * shapes[labels] + 0.7 * random.integers(0, 256, (10_000, 3072))
    np.concatenate([labels[:, None], pixels], axis=1).astype(np.uint8).tofile(folder / name)
(folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)))
PYTHON
fi
options=(--seed 1 --epochs 2 --log-interval 50)
[[ ! -e $images ]] || options+=(--data "$images")
skip=$no_gpu ours train.lockstep 240 "${stamped[@]}" "$build/examples/train_resnet18_cifar10" --device cuda \
  --save "$out/resnet18.safetensors" "${options[@]}"
skip=$no_torch step train.pytorch 240 "${stamped[@]}" python3 "$root/benchmarks/pytorch/train_cifar10.py" --device cuda \
  "${options[@]}"
# PyTorch shall not see the libraries that our program needs.
mkdir -p "$out/bin" && install /dev/stdin "$out/bin/train_step" << WRAPPER
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$build/benchmarks/train_step' "\$@"
WRAPPER
for size in 32 224; do
  skip=$no_torch step "benchmarks.train_step_$size" 120 python3 "$root/benchmarks/compare.py" "$out/bin" --python python3 \
    --device cuda --only $size
done
skip=$no_gpu ours benchmarks.ops 300 "$build/benchmarks/ops" --device=cuda --benchmark_min_time=0.05

# ---- The summary.

# Images per second between the first and the last printed loss of each epoch, the best epoch's: 50 batches of 128 a line.
images_per_second() {
  awk '/Step [0-9]+\] Loss/ && $3 != epoch { epoch = $3; first = $1; n = 0; next }
    /Step [0-9]+\] Loss/ { rate = ++n * 6400 / ($1 - first); best = rate > best ? rate : best }
    END { printf "%.0f", best }' "$1" 2> /dev/null
}
losses() { grep -oE '\[Epoch.*' "$1" 2> /dev/null; }
failed=0 left=()
{
  printf '# GPU check\n\n- %s\n' "$(date -u +'%Y-%m-%d %H:%M UTC')"
  printf -- '- GPU, driver, memory: %s\n' "${gpu:-none: what needs one is skipped}"
  printf -- '- build: %s; PyTorch: %s; compute-sanitizer: %s\n\n' "$build" "${torch:-none}" "${sanitizer:-none}"
  printf '| step | result |\n|---|---|\n'
  for name in "${steps[@]}"; do
    if [[ -e $out/$name.result ]]; then
      printf '| %s | %s |\n' "$name" "$(< "$out/$name.result")"
      ! grep -q '^fail' "$out/$name.result" || failed=$((failed + 1))
    else
      printf '| %s | not run yet |\n' "$name"
      ! asked "$name" || left+=("$name")
    fi
  done
  printf '\nsteps: %d, failed: %d, skipped: %d, left: %d\n' "${#steps[@]}" "$failed" \
    "$(printf '%s\n' "${steps[@]}" | sed "s|.*|$out/&.result|" | xargs grep -ls '^skip' | wc -l)" "${#left[@]}"
  if [[ -e $out/train.lockstep.log ]]; then
    ours=$(images_per_second "$out/train.lockstep.log") theirs=$(images_per_second "$out/train.pytorch.log")
    printf '\n## Training: Lockstep beside PyTorch\n\nimages/s: %s beside %s, ratio %s\n\n```text\n' "$ours" "$theirs" \
      "$(awk -v a="$ours" -v b="${theirs:-0}" 'BEGIN { print (b > 0 ? sprintf("%.2f", a / b) : "unknown") }')"
    paste <(losses "$out/train.lockstep.log") <(losses "$out/train.pytorch.log")
    printf '```\n'
  fi
  for log in "$out"/benchmarks.train_step_*.log; do
    [[ ! -e $log ]] || cat "$log"
  done
} > "$out/summary.md"
sed -n '/^steps:/p' "$out/summary.md"
echo "gpu_check: $out/summary.md"
((failed == 0)) || exit 1
((${#left[@]} == 0)) || exit 2
