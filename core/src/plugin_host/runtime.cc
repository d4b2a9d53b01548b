#include "coffer/plugin_host/runtime.h"

#include <algorithm>

#include "bridge.h"
#include "delivery.h"

namespace coffer {
namespace {

using bridge::bytes;
using bridge::contained;
using bridge::kNoMemory;
using bridge::Objection;
using bridge::str;
using bridge::view;

constexpr size_t kLargestHandle = 4096, kMostMachines = 100'000, kMostLabels = 256;

using Labels = std::vector<std::pair<std::string, std::string>>;

std::vector<coffer_str> strs(const std::vector<std::string> &texts) {
  std::vector<coffer_str> out;
  out.reserve(texts.size());
  for (const std::string &t : texts) out.push_back(str(t));
  return out;
}

std::vector<coffer_pair> raw_pairs(const Labels &all) {
  std::vector<coffer_pair> out;
  out.reserve(all.size());
  for (const auto &[key, value] : all) out.push_back({str(key), bytes(as_bytes(value))});
  return out;
}

template <class T>
std::vector<const T *> pointers(const std::vector<T> &all) {
  std::vector<const T *> out;
  for (const T &t : all) out.push_back(&t);
  return out;
}

Result<void> check_handle(ByteSpan handle) {
  if (!handle.empty() && handle.size() <= kLargestHandle) return {};
  return fail(ErrorCode::kInvalidArgument, "runtime: a handle must have 1 to 4096 bytes");
}

// Collects what a runtime says about Machines, checked one by one.
struct Machines {
  size_t most = 1;
  const Labels *labels = nullptr;  // each Machine must carry these
  std::vector<InstanceStatus> found;
  Objection wrong;

  static int32_t emit(void *ctx, const coffer_machine_status *status) noexcept {
    auto &m = *static_cast<Machines *>(ctx);
    if (!m.wrong && !contained([&] { m.wrong = m.add(status); })) m.wrong = kNoMemory;
    return bool(m.wrong);
  }

 private:
  Objection add(const coffer_machine_status *s) {
    if (found.size() >= most) return "answered too many Machines";
    InstanceStatus out;
    if (const Objection o = read(s, labels, out)) return o;
    found.push_back(std::move(out));
    return {};
  }

 public:
  static Objection read(const coffer_machine_status *s, const Labels *labels, InstanceStatus &out) {
    if (!s || s->struct_size < sizeof *s) return "answered a status that is too short";
    if (s->state > COFFER_M_GONE) return "answered a state that is none";
    const ByteSpan handle = view(s->handle);
    if (handle.size() != s->handle.size || handle.size() > kLargestHandle)
      return "answered a handle of more than 4096 bytes";
    out.state = s->state;
    for (const auto &[field, text] : {std::pair(&out.name, s->name),
                                      {&out.instance_id, s->instance_id},
                                      {&out.native_id, s->native_id}}) {
      if (text.size && !bridge::is_name(view(text), 1024)) return "answered a name or id that is no text";
      *field = view(text);
    }
    out.message = printable(view(s->message), 4096);
    out.exit_code = s->exit_code;
    out.exit_signal = s->exit_signal;
    out.out_of_memory = s->flags & 1u;
    out.created_ns = s->created_ns;
    out.started_ns = s->started_ns;
    out.finished_ns = s->finished_ns;
    out.handle.assign(handle.begin(), handle.end());
    if (s->n_labels > kMostLabels || (s->n_labels && !s->labels)) return "answered a broken list of labels";
    for (size_t i = 0; i < s->n_labels; ++i)
      out.labels.emplace_back(printable(view(s->labels[i].key), 1024),
                              printable(as_text(view(s->labels[i].value)), 4096));
    if (labels)
      for (const auto &asked : *labels)
        if (std::ranges::find(out.labels, asked) == out.labels.end())
          return "answered a Machine without the labels asked for";
    return {};
  }
};

Result<InstanceStatus> one(const PluginInstance &instance, std::string_view what, const Result<void> &called,
                           Machines &answer) {
  if (answer.wrong) return bridge::wrong_answer(instance, what, answer.wrong);
  COFFER_CHECK(called);
  if (answer.found.empty()) return bridge::wrong_answer(instance, what, "answered OK without a status");
  return std::move(answer.found.front());
}

// inspect() and wait(): a Machine that the platform no longer knows is a state, not an error.
template <class F>
Result<InstanceStatus> state_of(const PluginInstance &instance, std::string_view what, ByteSpan handle,
                                const CallOptions &options, F &&ask) {
  COFFER_CHECK(check_handle(handle));
  Machines answer;
  bool absent = false;
  const Result<void> called = instance.call(what, options, [&](coffer_instance *i, const coffer_call *c) {
    const coffer_status status = ask(i, c, answer);
    absent = status == COFFER_NOT_FOUND;
    return absent ? COFFER_OK : status;
  });
  if (absent && answer.found.empty() && !answer.wrong) {
    answer.found.emplace_back();
    answer.found.front().state = COFFER_M_GONE;
  }
  COFFER_TRY(InstanceStatus status, one(instance, what, called, answer));
  if (status.handle.empty()) status.handle.assign(handle.begin(), handle.end());
  return status;
}

}  // namespace

Result<Runtime> Runtime::open(const PluginConfig &config) {
  COFFER_TRY(PluginInstance instance, bridge::open_serving(config, COFFER_RUNTIME_ID));
  COFFER_TRY(coffer_runtime table, bridge::table_of<coffer_runtime>(instance, COFFER_RUNTIME_ID));
  bridge::fill_slots(table.create, table.start, table.stop, table.destroy, table.inspect, table.list,
                     table.wait, table.sweep);
  return Runtime(std::move(instance), table);
}

Result<InstanceStatus> Runtime::create(const InstanceSpec &spec, const std::vector<Delivery> &places,
                                       const CallOptions &options) const {
  const auto entrypoint = strs(spec.entrypoint), argv = strs(spec.argv);
  const auto env = raw_pairs(spec.env), labels = raw_pairs(spec.labels);
  const bridge::RawDeliveries deliveries(places, bridge::RawDeliveries::kPlaces);
  std::vector<coffer_port> ports;
  for (const Port &p : spec.ports)
    ports.push_back({sizeof(coffer_port), p.udp ? 17u : 6u, p.port, p.host_port, str(p.host_ip)});
  std::vector<coffer_mount> mounts;
  for (const Mount &m : spec.mounts)
    mounts.push_back(
        {sizeof(coffer_mount), m.read_only ? COFFER_MOUNT_READ_ONLY : 0u, str(m.source), str(m.target)});
  const auto port_list = pointers(ports);
  const auto mount_list = pointers(mounts);
  const auto cap_drop = strs(spec.cap_drop);
  coffer_machine_spec raw{};
  raw.struct_size = sizeof raw;
  raw.name = str(spec.name);
  raw.instance_id = str(spec.instance_id);
  raw.image = str(spec.image);
  raw.entrypoint = entrypoint.data(), raw.n_entrypoint = entrypoint.size();
  raw.argv = argv.data(), raw.n_argv = argv.size();
  raw.env = env.data(), raw.n_env = env.size();
  raw.labels = labels.data(), raw.n_labels = labels.size();
  raw.deliveries = deliveries.data(), raw.n_deliveries = deliveries.size();
  raw.user = str(spec.user);
  raw.workdir = str(spec.workdir);
  raw.flags = spec.read_only ? COFFER_SPEC_READ_ONLY : 0;
  raw.ports = port_list.data(), raw.n_ports = port_list.size();
  raw.mounts = mount_list.data(), raw.n_mounts = mount_list.size();
  raw.cap_drop = cap_drop.data(), raw.n_cap_drop = cap_drop.size();
  raw.network = str(spec.network);
  raw.memory_bytes = spec.memory_bytes;
  raw.stop_signal = str(spec.stop_signal);
  raw.stop_timeout_ns = spec.stop_timeout_ns;
  Machines answer;
  const Result<void> called =
      instance_.call("create", options, [&](coffer_instance *i, const coffer_call *c) {
        return table_.create(i, c, &raw, &Machines::emit, &answer);
      });
  COFFER_TRY(InstanceStatus status, one(instance_, "create", called, answer));
  if (status.instance_id != spec.instance_id)
    return bridge::wrong_answer(instance_, "create", "answered another instance_id");
  if (status.handle.empty()) return bridge::wrong_answer(instance_, "create", "answered no handle");
  return status;
}

Result<void> Runtime::start(ByteSpan handle, const std::vector<Delivery> &values,
                            const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  const bridge::RawDeliveries deliveries(values, bridge::RawDeliveries::kValues);
  return instance_.call("start", options, [&](coffer_instance *i, const coffer_call *c) {
    return table_.start(i, c, bytes(handle), deliveries.data(), deliveries.size());
  });
}

Result<void> Runtime::stop(ByteSpan handle, std::string_view signal, uint64_t timeout_ns,
                           const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  return instance_.call("stop", options, [&](coffer_instance *i, const coffer_call *c) {
    return table_.stop(i, c, bytes(handle), str(signal), timeout_ns);
  });
}

Result<void> Runtime::destroy(ByteSpan handle, bool force, const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  return instance_.call("destroy", options, [&](coffer_instance *i, const coffer_call *c) {
    return table_.destroy(i, c, bytes(handle), force);
  });
}

Result<InstanceStatus> Runtime::inspect(ByteSpan handle, const CallOptions &options) const {
  return state_of(instance_, "inspect", handle, options,
                  [&](coffer_instance *i, const coffer_call *c, Machines &answer) {
                    return table_.inspect(i, c, bytes(handle), &Machines::emit, &answer);
                  });
}

Result<std::vector<InstanceStatus>> Runtime::list(const Labels &labels, const CallOptions &options) const {
  const auto raw_labels = raw_pairs(labels);
  Machines answer{kMostMachines, &labels, {}};
  const Result<void> called = instance_.call("list", options, [&](coffer_instance *i, const coffer_call *c) {
    return table_.list(i, c, raw_labels.data(), raw_labels.size(), &Machines::emit, &answer);
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "list", answer.wrong);
  COFFER_CHECK(called);
  if (std::ranges::any_of(answer.found, [](const InstanceStatus &s) { return s.handle.empty(); }))
    return bridge::wrong_answer(instance_, "list", "answered a Machine without a handle");
  return std::move(answer.found);
}

Result<InstanceStatus> Runtime::wait(ByteSpan handle, const CallOptions &options) const {
  return state_of(instance_, "wait", handle, options,
                  [&](coffer_instance *i, const coffer_call *c, Machines &answer) {
                    return table_.wait(i, c, bytes(handle), &Machines::emit, &answer);
                  });
}

Result<void> Runtime::logs(ByteSpan handle, const LogQuery &query,
                           const std::function<bool(uint32_t, int64_t, ByteSpan)> &each,
                           const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  std::optional<coffer_runtime_logs> table =
      bridge::copy_table<coffer_runtime_logs>(instance_.interface(COFFER_RUNTIME_LOGS_ID));
  if (!table) table.emplace();
  bridge::fill_slots(table->logs);
  constexpr uint32_t kFollow = 1, kOut = 2, kErr = 4;
  const coffer_log_query raw = {sizeof raw, kOut | kErr | (query.follow ? kFollow : 0u), query.since_ns,
                                query.tail};
  struct Answer {
    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each;
    bool stopped = false, no_memory = false;
  } answer{each};
  const auto emit = [](void *ctx, uint32_t stream, int64_t time_ns, coffer_bytes data) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    if (!a.stopped && !contained([&] { a.stopped = !a.each(stream == 2 ? 2 : 1, time_ns, view(data)); }))
      a.stopped = a.no_memory = true;
    return a.stopped;
  };
  const Result<void> called =
      instance_.call("show logs", options, [&](coffer_instance *i, const coffer_call *c) {
        return table->logs(i, c, bytes(handle), &raw, emit, &answer);
      });
  if (answer.no_memory) return fail(ErrorCode::kResourceExhausted, "no memory for the logs");
  if (answer.stopped) return {};
  return called;
}

Result<int32_t> Runtime::exec(ByteSpan handle, const std::vector<std::string> &argv,
                              const std::function<bool(uint32_t, ByteSpan)> &out,
                              const std::function<int64_t(std::span<uint8_t>)> &in,
                              const CallOptions &options, int in_fd) const {
  COFFER_CHECK(check_handle(handle));
  if (argv.empty()) return fail(ErrorCode::kInvalidArgument, "runtime: no command to execute");
  std::optional<coffer_runtime_exec> table =
      bridge::copy_table<coffer_runtime_exec>(instance_.interface(COFFER_RUNTIME_EXEC_ID));
  if (!table) table.emplace();
  bridge::fill_slots(table->exec);
  struct Streams {
    const std::function<bool(uint32_t, ByteSpan)> &out;
    const std::function<int64_t(std::span<uint8_t>)> &in;
  } streams{out, in};
  coffer_exec_io io{};
  io.struct_size = sizeof io;
  io.ctx = &streams;
  io.out = [](void *ctx, uint32_t stream, int64_t, coffer_bytes data) noexcept -> int32_t {
    const auto &s = *static_cast<Streams *>(ctx);
    bool more = true;
    return !contained([&] { more = !s.out || s.out(stream == 2 ? 2 : 1, view(data)); }) || !more;
  };
  io.in = [](void *ctx, void *buffer, size_t size) noexcept -> int64_t {
    const auto &s = *static_cast<Streams *>(ctx);
    int64_t n = 0;
    if (!s.in || size == 0) return 0;
    return contained([&] { n = s.in({static_cast<uint8_t *>(buffer), size}); }) ? n : -1;
  };
  io.in_fd = in ? in_fd : -1;
  const auto command = strs(argv);
  coffer_exec_spec raw{};
  raw.struct_size = sizeof raw;
  raw.argv = command.data(), raw.n_argv = command.size();
  int32_t exit_code = 0;
  COFFER_CHECK(instance_.call("execute commands", options, [&](coffer_instance *i, const coffer_call *c) {
    return table->exec(i, c, bytes(handle), &raw, &io, &exit_code);
  }));
  return exit_code;
}

Result<std::string> Runtime::ensure_image(std::string_view image, bool pull,
                                          const std::function<void(std::string_view)> &progress,
                                          const CallOptions &options) const {
  const auto table = bridge::copy_table<coffer_runtime_images>(instance_.interface(COFFER_RUNTIME_IMAGES_ID));
  if (!table || !table->ensure) return std::string(image);
  bridge::BytesSink reference(1024);
  const auto emit = [](void *ctx, coffer_str line) noexcept -> int32_t {
    const auto &p = *static_cast<const std::function<void(std::string_view)> *>(ctx);
    return !contained([&] {
      if (p) p(printable(view(line), 1024));
    });
  };
  COFFER_CHECK(instance_.call("image", options, [&](coffer_instance *i, const coffer_call *c) {
    return table->ensure(i, c, str(image), pull ? COFFER_IMAGE_PULL : 0, emit,
                         const_cast<std::function<void(std::string_view)> *>(&progress), reference.raw());
  }));
  if (!bridge::is_name(reference.text(), 1024))
    return bridge::wrong_answer(instance_, "image", "answered a reference that is no text");
  return reference.text();
}

Result<void> Runtime::events(const Labels &labels, const std::function<bool(const InstanceStatus &)> &each,
                             const CallOptions &options) const {
  const auto table = bridge::copy_table<coffer_runtime_events>(instance_.interface(COFFER_RUNTIME_EVENTS_ID));
  if (!table || !table->events)
    return fail(ErrorCode::kUnimplemented,
                "plugin " + instance_.plugin().name() + " does not tell of changes");
  struct Answer {
    const std::function<bool(const InstanceStatus &)> &each;
    const Labels &labels;
    bool stopped = false;
    Objection wrong = {};
  } answer{each, labels};
  const auto emit = [](void *ctx, const coffer_machine_status *status) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    if (a.stopped || a.wrong) return 1;
    const bool done = contained([&] {
      InstanceStatus s;
      const bool listens = status && status->state == COFFER_M_UNKNOWN && status->instance_id.size == 0;
      a.wrong = Machines::read(status, listens ? nullptr : &a.labels, s);
      if (!a.wrong) a.stopped = !a.each(s);
    });
    if (!done) a.wrong = kNoMemory;
    return a.stopped || a.wrong;
  };
  const auto raw_labels = raw_pairs(labels);
  const Result<void> called =
      instance_.call("tell of changes", options, [&](coffer_instance *i, const coffer_call *c) {
        return table->events(i, c, raw_labels.data(), raw_labels.size(), emit, &answer);
      });
  if (answer.wrong) return bridge::wrong_answer(instance_, "tell of changes", answer.wrong);
  if (answer.stopped) return {};
  return called;
}

Result<void> Runtime::probe(ByteSpan handle, const Check &check, const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  if (check.kind != Check::Kind::kTcp && check.kind != Check::Kind::kHttp)
    return fail(ErrorCode::kInvalidArgument, "runtime: a check by a command is no probe");
  auto table = bridge::copy_table<coffer_runtime_probe>(instance_.interface(COFFER_RUNTIME_PROBE_ID));
  if (!table) table.emplace();
  bridge::fill_slots(table->probe);
  const bool http = check.kind == Check::Kind::kHttp;
  coffer_probe_spec raw{};
  raw.struct_size = sizeof raw;
  raw.kind = http ? COFFER_PROBE_HTTP : COFFER_PROBE_TCP;
  raw.port = check.port;
  if (http) raw.method = str(check.method), raw.path = str(check.path);
  constexpr std::string_view kWhat = "try checks";
  auto tried = instance_.call(kWhat, options, [&](coffer_instance *i, const coffer_call *c) {
    return table->probe(i, c, bytes(handle), &raw);
  });
  // Not passed: that is the app's affair and no failure of the plugin.
  if (!tried && tried.error().code == ErrorCode::kFailedPrecondition) {
    const size_t context =
        std::string_view("plugin : : ").size() + instance_.plugin().name().size() + kWhat.size();
    return fail(ErrorCode::kFailedPrecondition, tried.error().message.substr(context));
  }
  return tried;
}

Result<void> Runtime::update(ByteSpan handle, const std::vector<Delivery> &values, std::string_view signal,
                             const CallOptions &options) const {
  COFFER_CHECK(check_handle(handle));
  auto table = bridge::copy_table<coffer_runtime_update>(instance_.interface(COFFER_RUNTIME_UPDATE_ID));
  if (!table) table.emplace();
  bridge::fill_slots(table->update);
  const bridge::RawDeliveries deliveries(values, bridge::RawDeliveries::kValues);
  return instance_.call("replace files", options, [&](coffer_instance *i, const coffer_call *c) {
    return table->update(i, c, bytes(handle), deliveries.data(), deliveries.size(), str(signal));
  });
}

Result<void> Runtime::sweep(const CallOptions &options) const {
  auto swept = instance_.call("sweep", options,
                              [&](coffer_instance *i, const coffer_call *c) { return table_.sweep(i, c); });
  if (!swept && swept.error().code == ErrorCode::kUnimplemented) return {};
  return swept;
}

}  // namespace coffer
