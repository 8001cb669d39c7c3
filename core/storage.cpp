#include <lockstep/core/storage.h>

#include <algorithm>
#include <cstdio>
#include <exception>

#include <lockstep/core/cuda_memory.h>

namespace lockstep {

Storage::Storage(std::size_t bytes, const Stream& stream)
    : data_(detail::cuda_allocate(bytes, stream)),
      bytes_(bytes),
      streams_(std::make_unique<std::vector<Stream>>(1, stream)) {}

void Storage::record_stream(const Stream& stream) {
  if (streams_ && std::find(streams_->begin(), streams_->end(), stream) == streams_->end()) streams_->push_back(stream);
}

void Storage::free_on_device() noexcept {
  const Stream& first = streams_->front();
  try {
    for (std::size_t i = 1; i < streams_->size(); ++i) first.wait(Event((*streams_)[i]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockstep: %s\n", error.what());
  }
  detail::cuda_deallocate(data_, bytes_, first);
}

}  // namespace lockstep
