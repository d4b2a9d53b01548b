// demux.h - the two output streams of a container in one connection: frames of 8 bytes head (stream, three
// zeros, big-endian size) and data.
#ifndef COFFER_RUNTIME_DOCKER_DEMUX_H
#define COFFER_RUNTIME_DOCKER_DEMUX_H
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace coffer::runtime_docker {

class Demux {
 public:
  // `whole`: a frame is handed on when it is complete (a log entry); else as it comes.  `emit(stream, data)`
  // answers false to stop.  Stream 1 is out, 2 err.
  using Emit = std::function<bool(uint32_t stream, std::string_view data)>;
  Demux(bool whole, Emit emit) : whole_(whole), emit_(std::move(emit)) {}
  // False once emit wanted no more, or the bytes are no frames.
  bool feed(std::string_view data) {
    while (!data.empty()) {
      if (head_.size() < kHead) {
        const size_t n = std::min(kHead - head_.size(), data.size());
        head_.append(data.substr(0, n));
        data.remove_prefix(n);
        if (head_.size() < kHead) return true;
        if (head_[0] > 2) return false;
        for (size_t i = 4; i < kHead; ++i) left_ = left_ << 8 | static_cast<uint8_t>(head_[i]);
      }
      const size_t n = std::min<size_t>(left_, data.size());
      left_ -= static_cast<uint32_t>(n);
      if (whole_) entry_.append(data.substr(0, n));
      const std::string_view ready = whole_ ? std::string_view(entry_) : data.substr(0, n);
      const bool hand_on = whole_ ? left_ == 0 : n > 0;
      if (hand_on && !emit_(head_[0] == 2 ? 2 : 1, ready)) return false;
      data.remove_prefix(n);
      if (left_ == 0) {
        head_.clear();
        entry_.clear();
      }
    }
    return true;
  }

 private:
  static constexpr size_t kHead = 8;
  bool whole_;
  Emit emit_;
  std::string head_, entry_;
  uint32_t left_ = 0;
};

}  // namespace coffer::runtime_docker
#endif
