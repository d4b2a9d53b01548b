// What every kind needs at the border: views of borrowed data, tables by prefix, host-owned sinks.
#ifndef COFFER_PLUGIN_HOST_BRIDGE_H
#define COFFER_PLUGIN_HOST_BRIDGE_H

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"
#include "coffer/base/text.h"
#include "coffer/plugin_host/plugin.h"

namespace coffer::bridge {

inline coffer_str str(std::string_view s) { return {s.data(), s.size()}; }
inline coffer_bytes bytes(ByteSpan b) { return {b.data(), b.size()}; }

// What a plugin points at.  A size without data is a lie; it is read as empty.
inline std::string_view view(coffer_str s) {
  return s.data ? std::string_view(s.data, s.size) : std::string_view();
}
inline ByteSpan view(coffer_bytes b) { return b.data ? ByteSpan(b.data, b.size) : ByteSpan(); }

// Text that is stored and compared: UTF-8 without control characters, 1..max bytes.
inline bool is_name(std::string_view s, size_t max) {
  return !s.empty() && s.size() <= max && printable(s, max) == s;
}

// An empty slot answers for itself (abi.h, R5).
template <class... Args>
void fill_slot(coffer_status (*&slot)(Args...) noexcept) {
  if (!slot) slot = [](Args...) noexcept -> coffer_status { return COFFER_UNIMPLEMENTED; };
}
template <class... Slots>
void fill_slots(Slots &...slots) {
  (fill_slot(slots), ...);
}

// The part of a plugin's interface table that this host knows; the rest is empty.  nullopt: not a table.
template <class Table>
std::optional<Table> copy_table(const void *table) {
  constexpr size_t kHead = 16;  // struct_size, minor, features
  if (!table) return std::nullopt;
  uint32_t size;
  std::memcpy(&size, table, sizeof size);
  if (size < kHead) return std::nullopt;
  Table out{};
  // Whole slots only: half a pointer must not be called.
  std::memcpy(&out, table, std::min<size_t>(size / sizeof(void *) * sizeof(void *), sizeof out));
  return out;
}

// Loads, checks that the interface is declared, and only then opens.
Result<PluginInstance> open_serving(const PluginConfig &config, const char *interface_id);

// Why an answer is not accepted; none by default.
struct Objection {
  constexpr Objection() = default;
  constexpr Objection(const char *t, ErrorCode c = ErrorCode::kDataLoss) : text(t), code(c) {}
  constexpr explicit operator bool() const { return text != nullptr; }
  const char *text = nullptr;
  ErrorCode code = ErrorCode::kDataLoss;
};
inline constexpr Objection kNoMemory{"no memory for the answer", ErrorCode::kResourceExhausted};

// "plugin NAME: WHAT: TEXT"
std::unexpected<Error> wrong_answer(const PluginInstance &, std::string_view what, Objection);

template <class Table>
Result<Table> table_of(const PluginInstance &instance, const char *interface_id) {
  if (const std::optional<Table> t = copy_table<Table>(instance.interface(interface_id))) return *t;
  return fail(ErrorCode::kFailedPrecondition, "plugin " + instance.plugin().name() + " declares " +
                                                  interface_id + " but has no usable table for it");
}

// Runs `body` in a callback that must not throw; false when it could not be done.
template <class F>
bool contained(F &&body) noexcept {
  try {
    body();
    return true;
  } catch (...) {  // bad_alloc; the core throws nothing else
    return false;
  }
}

// A bounded result in host memory; `Buffer` is Bytes or SecretBytes.
class Sink {
 public:
  Sink(uint32_t flags, size_t limit) : limit_(limit) {
    raw_ = {sizeof raw_, flags, this, &on_write, &on_reserve, &on_commit};
  }
  Sink(const Sink &) = delete;
  Sink &operator=(const Sink &) = delete;
  const coffer_sink *raw() const { return &raw_; }
  bool overrun() const { return overrun_; }  // the plugin wanted more than the limit

 protected:
  ~Sink() = default;
  // Room for `size` bytes in all; the start of the buffer, nullptr when there is no memory.
  virtual uint8_t *grow(size_t size) = 0;
  size_t used_ = 0;

 private:
  uint8_t *reserve(size_t size) noexcept {
    reserved_ = 0;
    if (size > limit_ - used_) {
      overrun_ = true;
      return nullptr;
    }
    uint8_t *start = nullptr;
    if (!contained([&] { start = grow(used_ + size); }) || !start) return nullptr;
    reserved_ = size;
    return start + used_;
  }
  coffer_status commit(size_t used) noexcept {
    if (used > reserved_) return COFFER_INVALID_ARGUMENT;
    used_ += used;
    reserved_ = 0;
    return COFFER_OK;
  }
  static Sink &self(const coffer_sink *s) { return *static_cast<Sink *>(s->host_data); }
  static uint8_t *on_reserve(const coffer_sink *s, size_t size) noexcept { return self(s).reserve(size); }
  static coffer_status on_commit(const coffer_sink *s, size_t used) noexcept { return self(s).commit(used); }
  static coffer_status on_write(const coffer_sink *s, const void *data, size_t size) noexcept {
    if (size == 0) return COFFER_OK;
    uint8_t *to = data ? self(s).reserve(size) : nullptr;
    if (!to) return COFFER_RESOURCE_EXHAUSTED;
    std::memcpy(to, data, size);
    return self(s).commit(size);
  }

  coffer_sink raw_;
  size_t limit_, reserved_ = 0;
  bool overrun_ = false;
};

class BytesSink final : public Sink {
 public:
  explicit BytesSink(size_t limit) : Sink(0, limit) {}
  Bytes take() {
    buffer_.resize(used_);
    return std::move(buffer_);
  }
  std::string text() const { return std::string(as_text(ByteSpan(buffer_).first(used_))); }

 private:
  uint8_t *grow(size_t size) override {
    if (size > buffer_.size()) buffer_.resize(std::max<size_t>(size, 64));
    return buffer_.data();
  }
  Bytes buffer_;
};

// For keys: the whole limit is allocated at once, so nothing is ever left behind by growing.
class SecretSink final : public Sink {
 public:
  explicit SecretSink(size_t limit) : Sink(COFFER_SINK_SECRET, limit), buffer_(limit) {}
  SecretBytes take() {
    SecretBytes out = SecretBytes::copy_of(buffer_.reveal().first(used_));
    buffer_.reset();
    return out;
  }
  size_t size() const { return used_; }

 private:
  uint8_t *grow(size_t) override { return buffer_.fill().data(); }
  SecretBytes buffer_;
};

}  // namespace coffer::bridge
#endif
