// The runtime API: streams, events, host functions.
#include <chrono>
#include <thread>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/runtime.h>

using namespace lockstep::emulation;

namespace {

Event& event_of(Emulator& e, cudaEvent_t handle) {
  Event* event = e.find(handle);
  if (!event) throw Fault{cudaErrorInvalidResourceHandle, "not an event, or one destroyed before"};
  return *event;
}

/// The device whose error waiting for `record` returns.
cudaError_t result_of_event(Emulator& e, const Event& event) { return result_of(e.device(event.device)); }

/// A host function may be all that tells the program how far the device is, so these run without anybody waiting: by a
/// thread that looks from time to time.
void run_host_functions_in_the_background() {
  static const bool started = [] {
    std::thread([] {
      Emulator& e = Emulator::get();
      for (;;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        Lock lock(e.mutex);
        for (const auto& stream : std::vector(e.streams)) {
          const auto waits = [&] {
            return !stream->busy && std::any_of(stream->queue.begin(), stream->queue.end(),
                                                [](const Operation& o) { return o.runs_unlocked; });
          };
          while (waits()) e.progress(lock, stream);
        }
      }
    }).detach();
    return true;
  }();
  (void)started;
}

}  // namespace

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int priority) {
  return api([&](Emulator& e, Lock&) {
    if (flags != cudaStreamNonBlocking) {
      return set_error(cudaErrorNotSupported,
                       "streams are ordered with the default stream unless cudaStreamNonBlocking");
    }
    *handle = reinterpret_cast<cudaStream_t>(e.make_stream(healthy_device(e).index, priority).get());
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return api([&](Emulator& e, Lock&) {
    const auto stream = e.find(handle);
    if (!stream) return set_error(cudaErrorInvalidResourceHandle, "not a stream, or one destroyed before");
    stream->destroyed = true;  // what is queued runs all the same
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const auto stream = stream_of(e, handle);
    e.finish(lock, stream);
    return result_of(e.device(stream->device));
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const auto stream = stream_of(e, handle);
    if (stream->has_pending(stream->count)) {
      e.progress(lock, stream);
      return cudaErrorNotReady;
    }
    e.finish(lock, stream);  // nothing to run, but the host knows of it now
    return result_of(e.device(stream->device));
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  return api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, handle);
    const Event& event = event_of(e, event_handle);
    if (!event.record) return cudaSuccess;
    stream->clock.join(event.record->clock);
    e.enqueue(*stream, "cudaStreamWaitEvent", nullptr).waits_for = event.record;
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  return api([&](Emulator& e, Lock&) {
    auto event = std::make_unique<Event>(Event{healthy_device(e).index, flags, nullptr});
    *handle = reinterpret_cast<cudaEvent_t>(event.get());
    e.events.emplace(*handle, std::move(event));
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return api([&](Emulator& e, Lock&) {
    return e.events.erase(handle) == 1
               ? cudaSuccess
               : set_error(cudaErrorInvalidResourceHandle, "not an event, or one destroyed before");
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, stream_handle);
    Event& event = event_of(e, handle);
    if (event.device != stream->device) {
      return set_error(cudaErrorInvalidResourceHandle,
                       fmt::format("an event of cuda:{} is recorded on {}", event.device, Emulator::name_of(*stream)));
    }
    event.record = std::make_shared<EventRecord>();
    Operation& operation = e.enqueue(*stream, "cudaEventRecord", [record = event.record](const Operation&) {
      record->done = true;
      record->time = std::chrono::steady_clock::now();
    });
    operation.always_runs = true;
    event.record->clock = operation.clock;
    event.record->stream = stream;
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const Event& event = event_of(e, handle);
    if (const auto record = event.record) e.finish_event(lock, record);
    return result_of_event(e, event);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const Event& event = event_of(e, handle);
    const auto record = event.record;
    if (record && !record->done) {
      if (const auto stream = record->stream.lock()) e.progress(lock, stream);
      return cudaErrorNotReady;
    }
    if (record) e.finish_event(lock, record);
    return result_of_event(e, event);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&](Emulator& e, Lock&) {
    const Event &first = event_of(e, start), &second = event_of(e, end);
    if (!first.record || !second.record || ((first.flags | second.flags) & cudaEventDisableTiming) != 0) {
      return set_error(cudaErrorInvalidResourceHandle, "an event without a time");
    }
    if (!first.record->done || !second.record->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(second.record->time - first.record->time).count();
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  run_host_functions_in_the_background();
  return api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, handle);
    e.enqueue(*stream, "host function", [function, data](const Operation&) { function(data); }).runs_unlocked = true;
    return cudaSuccess;
  });
}
