#include <lockstep/kernels/cuda/emulation/emulator.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep::emulation {
namespace {

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

/// Never destroyed: static variables may hold streams and memory to the end.
Emulator& Emulator::get() {
  static Emulator& emulator = *new Emulator;
  return emulator;
}

Emulator::Emulator() : random(number_from_environment("LOCKSTEP_EMULATION_SEED", 0)) {
  const int count =
      static_cast<int>(std::min<std::uint64_t>(number_from_environment("LOCKSTEP_EMULATED_DEVICES", 4), 64));
  for (int i = 0; i < count; ++i) devices.push_back(std::make_unique<DeviceState>(i));
}

int& current_device() {
  static thread_local int device = 0;
  return device;
}

std::string Emulator::name_of(const Stream& stream) {
  return fmt::format("stream {} of cuda:{}", stream.id, stream.device);
}

std::shared_ptr<Stream> Emulator::make_stream(int device_index, int priority) {
  auto stream = std::make_shared<Stream>();
  stream->device = device_index;
  stream->id = ++stream_count_;
  stream->priority = priority;
  if (free_numbers_.empty()) {
    stream->number = number_count_++;
  } else {
    // The new stream goes on counting where the old one, whose work is done, ended.
    stream->number = free_numbers_.back();
    free_numbers_.pop_back();
    stream->count = host[stream->number];
  }
  streams.push_back(stream);
  return stream;
}

std::shared_ptr<Stream> Emulator::find(cudaStream_t handle) {
  for (const auto& stream : streams) {
    if (reinterpret_cast<cudaStream_t>(stream.get()) == handle && !stream->destroyed) return stream;
  }
  return nullptr;
}

Event* Emulator::find(cudaEvent_t handle) {
  const auto found = events.find(handle);
  return found == events.end() ? nullptr : found->second.get();
}

DeviceState* Emulator::device_of(const void* pointer) {
  for (const auto& d : devices) {
    if (d->arena.contains(pointer)) return d.get();
  }
  return nullptr;
}

std::uint64_t Emulator::take_number(Stream& stream) {
  stream.clock.join(host);
  stream.clock.set(stream.number, ++stream.count);
  return stream.count;
}

Operation& Emulator::enqueue(Stream& stream, const std::string& name, std::function<void(const Operation&)> run) {
  const std::uint64_t number = take_number(stream);
  stream.queue.push_back({name + " on " + name_of(stream), number, stream.clock, std::move(run), nullptr});
  return stream.queue.back();
}

bool Emulator::is_blocked(const Stream& stream) {
  return stream.busy || stream.queue.empty() ||
         (stream.queue.front().waits_for && !stream.queue.front().waits_for->done);
}

void Emulator::run_first(Lock& lock, const std::shared_ptr<Stream>& stream) {
  const Operation operation = std::move(stream->queue.front());
  stream->queue.pop_front();
  DeviceState& d = device(stream->device);
  if (operation.run && (!d.fault || operation.always_runs)) {
    history.add({history.interval() + 1, stream->number, operation.number, operation.name});
    try {
      if (operation.runs_unlocked) {
        stream->busy = true;
        close_arenas();
        lock.unlock();
        operation.run(operation);
        lock.lock();
        stream->busy = false;
      } else {
        operation.run(operation);
      }
    } catch (Fault& fault) {
      if (!d.fault) d.fault = std::move(fault);
    }
    history.next_interval();
  }
  changed.notify_all();
}

void Emulator::step(Lock& lock, std::shared_ptr<Stream> stream) {
  // Sometimes something that is not needed yet: as legal as leaving it.
  if (draw(4) == 0) {
    const auto& any = streams[draw(streams.size())];
    if (!is_blocked(*any)) return run_first(lock, std::shared_ptr(any));
  }
  while (!stream->busy && !stream->queue.empty() && is_blocked(*stream)) {
    stream = stream->queue.front().waits_for->stream.lock();
  }
  if (stream->busy) {
    changed.wait(lock);
  } else if (!stream->queue.empty()) {
    run_first(lock, stream);
  }
}

void Emulator::finish(Lock& lock, const std::shared_ptr<Stream>& stream) {
  const std::uint64_t number = stream->count;
  // Callers wait for all that is queued now; what others queue meanwhile need not have run.
  const Clock known = stream->clock;
  while (stream->has_pending(number)) step(lock, stream);
  host.join(known);
  close_arenas();
  forget_past();
}

void Emulator::finish_device(Lock& lock, int device_index) {
  const auto all = streams;
  for (const auto& stream : all) {
    if (stream->device == device_index) finish(lock, stream);
  }
}

void Emulator::finish_event(Lock& lock, const std::shared_ptr<EventRecord>& record) {
  while (!record->done) step(lock, record->stream.lock());
  host.join(record->clock);
  close_arenas();
  forget_past();
}

void Emulator::progress(Lock& lock, const std::shared_ptr<Stream>& stream) {
  if (!stream->busy) step(lock, stream);
  close_arenas();
}

void Emulator::drop_queued_work(Lock& lock) {
  for (const auto& stream : std::vector(streams)) {
    while (stream->busy) changed.wait(lock);
    for (Operation& operation : stream->queue) {
      if (!operation.always_runs) operation.run = nullptr;
      operation.waits_for = nullptr;
    }
    while (!stream->queue.empty()) run_first(lock, stream);
    host.join(stream->clock);
  }
  close_arenas();
  forget_past();
}

void Emulator::close_arenas() {
  watch_host_accesses();
  for (const auto& d : devices) d->arena.close();
}

void Emulator::forget_past() {
  std::erase_if(streams, [&](const std::shared_ptr<Stream>& stream) {
    if (!stream->destroyed || !stream->queue.empty() || stream->busy || host[stream->number] < stream->count)
      return false;
    free_numbers_.push_back(stream->number);
    return true;
  });
  Clock known = host;
  for (const auto& stream : streams) {
    for (const Operation& operation : stream->queue) known.meet(operation.clock);
  }
  history.forget(known);
}

}  // namespace lockstep::emulation
