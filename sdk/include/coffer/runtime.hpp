// coffer/runtime.hpp - C++ face of "coffer.runtime/1" and its optional parts; contracts are in runtime.h.
#ifndef COFFER_RUNTIME_HPP
#define COFFER_RUNTIME_HPP
#include "plugin.hpp"
#include "runtime.h"

namespace coffer::sdk {

struct Machines {
  coffer_emit_machine emit;
  void *ctx;
  bool operator()(const coffer_machine_status &s) const { return emit(ctx, &s) == 0; }
};
struct Chunks {
  coffer_emit_chunk emit;
  void *ctx;
  bool operator()(uint32_t stream, int64_t time_ns, std::string_view data) const {
    return emit(ctx, stream, time_ns, to_bytes(data)) == 0;
  }
};

struct Lines {
  coffer_emit_text emit;
  void *ctx;
  bool operator()(std::string_view line) const { return !emit || emit(ctx, to_str(line)) == 0; }
};

// The fields of a spec that the host knows; those it does not are empty (abi.h, R4).
inline coffer_machine_spec whole(const coffer_machine_spec &spec) noexcept {
  coffer_machine_spec out{};
  std::memcpy(&out, &spec, spec.struct_size < sizeof out ? spec.struct_size : sizeof out);
  return out;
}

// COFFER_VIA_*: what this runtime can do, and those of them that the platform stores or shows.
template <uint32_t kVias, uint32_t kViasExposed>
class Runtime : public Instance {
 public:
  virtual void create(const Call &, const coffer_machine_spec &, const Machines &) = 0;
  virtual void start(const Call &, std::string_view handle, const coffer_delivery *const *deliveries,
                     size_t n) = 0;
  virtual void stop(const Call &, std::string_view handle, std::string_view signal, uint64_t timeout_ns) = 0;
  virtual void destroy(const Call &, std::string_view handle, bool force) = 0;
  virtual void inspect(const Call &, std::string_view handle, const Machines &) = 0;
  virtual void list(const Call &, const coffer_pair *labels, size_t n, const Machines &) = 0;
  virtual void wait(const Call &, std::string_view handle, const Machines &) = 0;
  virtual void logs(const Call &, std::string_view handle, const coffer_log_query &, const Chunks &) = 0;
  virtual int32_t exec(const Call &, std::string_view handle, const coffer_exec_spec &,
                       const coffer_exec_io &) = 0;
  virtual void sweep(const Call &) { throw Error{COFFER_UNIMPLEMENTED, "nothing is swept here"}; }
  // A runtime that has these four adds kImages, kEvents, kProbe and kUpdate to what interface() answers.
  virtual std::string ensure_image(const Call &, std::string_view, uint32_t, const Lines &) {
    throw Error{COFFER_UNIMPLEMENTED, "there are no images here"};
  }
  virtual void events(const Call &, const coffer_pair *, size_t, const Machines &) {
    throw Error{COFFER_UNIMPLEMENTED, "there are no events here"};
  }
  // (probe() is the plugin's own, of plugin.hpp.)  Not passed: throws not_passed().
  virtual void try_check(const Call &, std::string_view, const coffer_probe_spec &) {
    throw Error{COFFER_UNIMPLEMENTED, "no checks are tried here"};
  }
  virtual void update(const Call &, std::string_view, const coffer_delivery *const *, size_t,
                      std::string_view) {
    throw Error{COFFER_UNIMPLEMENTED, "no files are replaced here"};
  }
  static Error not_passed(std::string why) { return {COFFER_FAILED_PRECONDITION, std::move(why)}; }

  const void *interface(std::string_view id) noexcept override {
    if (id == COFFER_RUNTIME_ID) return &kTable;
    if (id == COFFER_RUNTIME_LOGS_ID) return &kLogs;
    if (id == COFFER_RUNTIME_EXEC_ID) return &kExec;
    return nullptr;
  }

 private:
  static inline const coffer_runtime kTable = {
      sizeof(coffer_runtime),
      0,
      0,
      kVias,
      kViasExposed,
      [](coffer_instance *i, const coffer_call *c, const coffer_machine_spec *s, coffer_emit_machine emit,
         void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).create(Call(c), *s, {emit, ctx}); });
      },
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, const coffer_delivery *const *d,
         size_t n) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).start(Call(c), view(h), d, n); });
      },
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, coffer_str signal,
         uint64_t timeout_ns) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).stop(Call(c), view(h), view(signal), timeout_ns); });
      },
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, uint32_t force) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).destroy(Call(c), view(h), force != 0); });
      },
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, coffer_emit_machine emit,
         void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).inspect(Call(c), view(h), {emit, ctx}); });
      },
      [](coffer_instance *i, const coffer_call *c, const coffer_pair *labels, size_t n,
         coffer_emit_machine emit, void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).list(Call(c), labels, n, {emit, ctx}); });
      },
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, coffer_emit_machine emit,
         void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).wait(Call(c), view(h), {emit, ctx}); });
      },
      [](coffer_instance *i, const coffer_call *c) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).sweep(Call(c)); });
      }};
  static inline const coffer_runtime_logs kLogs = {
      sizeof(coffer_runtime_logs), 0, 0,
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, const coffer_log_query *q,
         coffer_emit_chunk emit, void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).logs(Call(c), view(h), *q, {emit, ctx}); });
      }};
  static inline const coffer_runtime_exec kExec = {
      sizeof(coffer_runtime_exec), 0, 0,
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, const coffer_exec_spec *s,
         const coffer_exec_io *io, int32_t *exit_code) noexcept -> coffer_status {
        return guard(c, [&] { *exit_code = as<Runtime>(i).exec(Call(c), view(h), *s, *io); });
      }};

 protected:
  static inline const coffer_runtime_images kImages = {
      sizeof(coffer_runtime_images), 0, 0,
      [](coffer_instance *i, const coffer_call *c, coffer_str image, uint32_t flags, coffer_emit_text emit,
         void *ctx, const coffer_sink *reference) noexcept -> coffer_status {
        return guard(c, [&] {
          Sink(reference).write(as<Runtime>(i).ensure_image(Call(c), view(image), flags, {emit, ctx}));
        });
      }};
  static inline const coffer_runtime_events kEvents = {
      sizeof(coffer_runtime_events), 0, 0,
      [](coffer_instance *i, const coffer_call *c, const coffer_pair *labels, size_t n,
         coffer_emit_machine emit, void *ctx) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).events(Call(c), labels, n, {emit, ctx}); });
      }};
  static inline const coffer_runtime_probe kProbe = {
      sizeof(coffer_runtime_probe), 0, 0,
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, const coffer_probe_spec *s) noexcept
          -> coffer_status { return guard(c, [&] { as<Runtime>(i).try_check(Call(c), view(h), *s); }); }};
  static inline const coffer_runtime_update kUpdate = {
      sizeof(coffer_runtime_update), 0, 0,
      [](coffer_instance *i, const coffer_call *c, coffer_bytes h, const coffer_delivery *const *d, size_t n,
         coffer_str signal) noexcept -> coffer_status {
        return guard(c, [&] { as<Runtime>(i).update(Call(c), view(h), d, n, view(signal)); });
      }};
};

}  // namespace coffer::sdk
#endif
