// coffer/plugin.hpp - what a C++ plugin author writes against; header-only, C++17, on top of the C ABI.
//
// A plugin is a class derived from one of the kinds (Storage in storage.hpp, Kms, Runtime, Injector),
// a descriptor, and one line: COFFER_PLUGIN(Class, kDescriptor).
//
// Errors: throw coffer::sdk::Error.  Its text is yours and reaches the user, so it must never hold a
// value.  Every other exception ends in guard() with a fixed text: texts of foreign libraries can quote
// their input.  Thread rule: as in abi.h, R6.
#ifndef COFFER_PLUGIN_HPP
#define COFFER_PLUGIN_HPP
#include "abi.h"

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace coffer::sdk {

// ---- borrowed views <-> ABI structs ----
inline std::string_view view(coffer_str s) noexcept {
  return s.size ? std::string_view(s.data, s.size) : std::string_view();
}
inline std::string_view view(coffer_bytes b) noexcept {
  return b.size ? std::string_view(reinterpret_cast<const char *>(b.data), b.size) : std::string_view();
}
inline coffer_str to_str(std::string_view s) noexcept { return {s.data(), s.size()}; }
inline coffer_bytes to_bytes(std::string_view s) noexcept {
  return {reinterpret_cast<const uint8_t *>(s.data()), s.size()};
}

// The one exception type that crosses from plugin code to the user.
struct Error {
  coffer_status status = COFFER_INTERNAL;
  std::string message;      // for a person; names things, never a value
  std::string domain = {};  // "errno", "sqlite" ...
  int64_t native_code = 0;
  uint32_t retry_after_ms = 0;
  std::string remedy = {};  // what a person can do about it, one sentence
};

inline void report(const coffer_call *call, const Error &e) noexcept {
  if (!call || !call->fail) return;
  coffer_error out{};
  out.struct_size = sizeof out;
  out.retry_after_ms = e.retry_after_ms;
  out.native_code = e.native_code;
  out.domain = to_str(e.domain);
  out.message = to_str(e.message);
  out.remedy = to_str(e.remedy);
  call->fail(call, e.status, &out);
}

// Exception barrier: nothing unwinds across the border (abi.h, R1).
template <class F>
coffer_status guard(const coffer_call *call, F &&body) noexcept {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return COFFER_OK;
    } else {
      return body();
    }
  } catch (const Error &e) {
    report(call, e);
    return e.status == COFFER_OK ? COFFER_INTERNAL : e.status;
  } catch (const std::bad_alloc &) {
    return COFFER_RESOURCE_EXHAUSTED;
  } catch (...) {
    try {
      report(call, {COFFER_INTERNAL, "unexpected failure inside the plugin"});
    } catch (...) {
    }
    return COFFER_INTERNAL;
  }
}

// The call being served: deadline and cancellation.
class Call {
 public:
  explicit Call(const coffer_call *raw) noexcept : raw_(raw) {}
  bool cancelled() const noexcept { return raw_ && raw_->cancelled && raw_->cancelled(raw_) != 0; }
  int cancel_fd() const noexcept { return raw_ ? raw_->cancel_fd : -1; }
  uint64_t deadline_ns() const noexcept { return raw_ ? raw_->deadline_ns : 0; }
  const coffer_call *raw() const noexcept { return raw_; }

 private:
  const coffer_call *raw_;
};

// Host-owned memory for one result.
class Sink {
 public:
  explicit Sink(const coffer_sink *raw) noexcept : raw_(raw) {}
  bool secret() const noexcept { return raw_->flags & COFFER_SINK_SECRET; }
  void write(std::string_view data) const { write(data.data(), data.size()); }
  void write(const void *data, size_t size) const {
    if (const coffer_status s = raw_->write(raw_, data, size); s != COFFER_OK)
      throw Error{s, "result refused by the host"};
  }
  // Writes in place, so that a secret exists only once: fill `size` bytes, then commit(used).
  uint8_t *reserve(size_t size) const {
    uint8_t *p = raw_->reserve(raw_, size);
    if (!p) throw Error{COFFER_RESOURCE_EXHAUSTED, "result too large for the host"};
    return p;
  }
  void commit(size_t used) const {
    if (const coffer_status s = raw_->commit(raw_, used); s != COFFER_OK)
      throw Error{s, "result refused by the host"};
  }

 private:
  const coffer_sink *raw_;
};

// The host, valid from init() to the end of the process.
class Host {
 public:
  static const coffer_host *&raw() noexcept {
    static const coffer_host *host = nullptr;
    return host;
  }
  static void log(int32_t level, std::string_view target, std::string_view message) noexcept {
    const coffer_host *h = raw();
    if (h && h->log) h->log(h, level, to_str(target), to_str(message), nullptr, 0);
  }
  static void random(void *out, size_t size) {
    if (raw()->random(raw(), out, size) != COFFER_OK)
      throw Error{COFFER_UNAVAILABLE, "no random bytes from the host"};
  }
  static void cleanse(void *p, size_t size) noexcept { raw()->cleanse(raw(), p, size); }
};

// Zeroed, locked, not dumped, wiped when it goes: for the few secrets that a plugin must hold.
class SecureBuffer {
 public:
  explicit SecureBuffer(size_t size) : size_(size) {
    data_ = static_cast<uint8_t *>(Host::raw()->secure_alloc(Host::raw(), size));
    if (!data_) throw std::bad_alloc();
  }
  SecureBuffer(const SecureBuffer &) = delete;
  SecureBuffer &operator=(const SecureBuffer &) = delete;
  SecureBuffer(SecureBuffer &&o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  SecureBuffer &operator=(SecureBuffer &&o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~SecureBuffer() {
    if (data_) Host::raw()->secure_free(Host::raw(), data_, size_);
  }
  uint8_t *data() noexcept { return data_; }
  const uint8_t *data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }

 private:
  uint8_t *data_ = nullptr;
  size_t size_ = 0;
};

// Options as validated and filled with defaults by the host.
class Options {
 public:
  explicit Options(const coffer_open_args *args) noexcept : args_(args) {}
  // "" when the key has no value.  A SECRET option lies in locked host memory: do not copy it into a string.
  std::string_view get(std::string_view key) const noexcept {
    for (size_t i = 0; i < args_->n_options; ++i)
      if (view(args_->options[i].key) == key) return view(args_->options[i].value);
    return {};
  }
  // Was it given, or does it have a default?  Tells an option left out from an empty value.
  bool has(std::string_view key) const noexcept {
    for (size_t i = 0; i < args_->n_options; ++i)
      if (view(args_->options[i].key) == key) return true;
    return false;
  }
  int64_t integer(std::string_view key) const { return std::stoll(std::string(get(key))); }
  bool flag(std::string_view key) const noexcept { return get(key) == "true"; }
  std::string_view state_dir() const noexcept { return view(args_->state_dir); }
  std::string_view instance_name() const noexcept { return view(args_->instance_name); }
  // May the plugin look at environment variables and at what its user keeps elsewhere?
  bool ambient() const noexcept { return args_->flags & COFFER_OPEN_ALLOW_ENV; }
  bool read_only() const noexcept { return args_->flags & COFFER_OPEN_READONLY; }

 private:
  const coffer_open_args *args_;
};

// One opened backend.  Kinds derive from it; each answers for its own interface ids.
class Instance {
 public:
  Instance() = default;
  Instance(const Instance &) = delete;
  Instance &operator=(const Instance &) = delete;
  virtual ~Instance() = default;
  // Does I/O: is the backend usable?  Throws Error when not; answers a JSON object of facts.
  virtual std::string probe(const Call &) { return "{}"; }
  virtual const void *interface(std::string_view id) noexcept = 0;
};

template <class Kind>
Kind &as(coffer_instance *i) noexcept {
  return static_cast<Kind &>(*reinterpret_cast<Instance *>(i));
}

// REQUIRES: Plugin has `static std::unique_ptr<Instance> open(const Call&, const Options&)`; optionally
// `static std::vector<std::string> validate(const Options&)`: what is wrong, one sentence each, without I/O.
template <class Plugin>
struct Entry {
  static coffer_status init(const coffer_host *host, const coffer_call *) noexcept {
    Host::raw() = host;
    return COFFER_OK;
  }
  static void deinit() noexcept {}
  static coffer_status validate(const coffer_call *call, const coffer_open_args *args,
                                const coffer_sink *notes) noexcept {
    return guard(call, [&] {
      if constexpr (requires_validate<Plugin>(0)) {
        const std::vector<std::string> wrong = Plugin::validate(Options(args));
        for (const std::string &w : wrong) Sink(notes).write(w + "\n");
        if (!wrong.empty()) throw Error{COFFER_INVALID_ARGUMENT, wrong.front()};
      }
    });
  }
  static coffer_status open(const coffer_call *call, const coffer_open_args *args,
                            coffer_instance **out) noexcept {
    return guard(call, [&] {
      std::unique_ptr<Instance> instance = Plugin::open(Call(call), Options(args));
      *out = reinterpret_cast<coffer_instance *>(instance.release());
    });
  }
  static void close(coffer_instance *i) noexcept { delete reinterpret_cast<Instance *>(i); }
  static coffer_status probe(coffer_instance *i, const coffer_call *call,
                             const coffer_sink *health) noexcept {
    return guard(call, [&] { Sink(health).write(reinterpret_cast<Instance *>(i)->probe(Call(call))); });
  }
  static const void *get_interface(coffer_instance *i, const char *id) noexcept {
    return reinterpret_cast<Instance *>(i)->interface(id);
  }
  static constexpr coffer_plugin_entry make(const coffer_descriptor *d) noexcept {
    return {COFFER_ABI_MAGIC,
            sizeof(coffer_plugin_entry),
            COFFER_ABI_MAJOR,
            COFFER_ABI_MINOR,
            0,
            0,
            d,
            &init,
            &deinit,
            &validate,
            &open,
            &close,
            &probe,
            &get_interface};
  }

 private:
  template <class P>
  static constexpr auto requires_validate(int) -> decltype(P::validate(std::declval<Options>()), true) {
    return true;
  }
  template <class P>
  static constexpr bool requires_validate(long) {
    return false;
  }
};

}  // namespace coffer::sdk

#define COFFER_PLUGIN(Class, kDescriptor)                                   \
  extern "C" COFFER_EXPORT const coffer_plugin_entry COFFER_PLUGIN_SYMBOL = \
      coffer::sdk::Entry<Class>::make(&(kDescriptor))
#endif
