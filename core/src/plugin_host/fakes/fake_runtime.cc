// A runtime that runs nothing and lies on demand: option `lie`.
#include <coffer/runtime.hpp>

namespace {

using namespace coffer::sdk;

constexpr coffer_option kLie{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_STRING, .key = "lie", .min_value = 1};
constexpr const coffer_option *kOptions[] = {&kLie};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_RUNTIME_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "org.example.fake-runtime",
                                        .name = "fake-runtime",
                                        .version = "1.0.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = 1};

class FakeRuntime final : public Runtime<COFFER_VIA_ENV | COFFER_VIA_TMPFS, COFFER_VIA_ENV> {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    return std::make_unique<FakeRuntime>(o);
  }
  explicit FakeRuntime(const Options &o) : lie_(o.get("lie")) {}

  void create(const Call &, const coffer_machine_spec &spec, const Machines &emit) override {
    if (lie_ == "nothing") return;
    for (size_t i = 0; i < spec.n_deliveries; ++i)
      if (spec.deliveries[i]->value.size) throw Error{COFFER_INTERNAL, "a value came before start"};
    coffer_machine_status s = status(view(spec.name), lie_ == "other id" ? "other" : view(spec.instance_id));
    s.labels = spec.labels;
    s.n_labels = spec.n_labels;
    if (lie_ == "no handle") s.handle = {};
    const std::string large(4097, 'h');
    if (lie_ == "large handle") s.handle = to_bytes(large);
    if (lie_ == "state 99") s.state = 99;
    if (lie_ == "control name") s.name = to_str("a\x1b[2Jb");
    if (lie_ == "name without data") s.name = {nullptr, 5};
    if (lie_ == "labels without data") s.labels = nullptr, s.n_labels = 3;
    if (lie_ == "short status") s.struct_size = 24;
    if (lie_ == "null status") return void(emit.emit(emit.ctx, nullptr));
    s.message = to_str("line one\nline \x1b[31mtwo");
    const std::string fields = fields_of(spec);
    if (lie_ == "fields") s.message = to_str(fields);
    emit(s);
    if (lie_ == "twice") emit(s);
  }
  void start(const Call &, std::string_view, const coffer_delivery *const *deliveries, size_t n) override {
    for (size_t i = 0; i < n; ++i)
      if (view(deliveries[i]->value) != "value" || !(deliveries[i]->flags & COFFER_DLV_SECRET))
        throw Error{COFFER_INTERNAL, "another value arrived"};
  }
  void stop(const Call &, std::string_view, std::string_view signal, uint64_t) override {
    if (signal != "SIGTERM") throw Error{COFFER_INVALID_ARGUMENT, "what signal?"};
  }
  void destroy(const Call &, std::string_view, bool) override {}
  void inspect(const Call &, std::string_view, const Machines &emit) override {
    if (lie_ == "gone") throw Error{COFFER_NOT_FOUND, "no such Machine"};
    if (lie_ == "nothing") return;
    coffer_machine_status s = status("web", "i-1");
    s.handle = {};
    emit(s);
  }
  void list(const Call &, const coffer_pair *labels, size_t n, const Machines &emit) override {
    coffer_machine_status s = status("web", "i-1");
    if (lie_ != "foreign Machine") s.labels = labels, s.n_labels = n;
    if (lie_ == "no handle") s.handle = {};
    emit(s);
    emit(s);
  }
  void wait(const Call &call, std::string_view, const Machines &emit) override {
    if (call.cancelled()) throw Error{COFFER_CANCELLED, ""};
    emit(status("web", "i-1"));
  }
  void logs(const Call &, std::string_view, const coffer_log_query &, const Chunks &emit) override {
    for (int i = 0; i < 100; ++i)
      if (!emit(1, i, "line\n")) return;
  }
  int32_t exec(const Call &, std::string_view, const coffer_exec_spec &spec,
               const coffer_exec_io &io) override {
    char buffer[64];
    const int64_t n = io.in_fd < 0 ? 0 : io.in(io.ctx, buffer, sizeof buffer);
    io.out(io.ctx, 1, 0, to_bytes({buffer, size_t(n < 0 ? 0 : n)}));
    io.out(io.ctx, 2, 0, to_bytes(view(spec.argv[0])));
    return 7;
  }
  std::string ensure_image(const Call &, std::string_view image, uint32_t flags,
                           const Lines &progress) override {
    if (lie_ == "no image")
      throw Error{COFFER_NOT_FOUND, "there is no such image here", {}, 0, 0, "pull it\nwith \x1b--pull"};
    if (flags & COFFER_IMAGE_PULL) progress("layer 1\n\x1b[2J");
    if (lie_ == "empty reference") return "";
    if (lie_ == "two lines") return "sha256:1\nsha256:2";
    if (lie_ == "large reference") return std::string(1025, 'x');
    return std::string(image) + "@sha256:1";
  }
  void events(const Call &, const coffer_pair *labels, size_t n, const Machines &emit) override {
    coffer_machine_status listening{};
    listening.struct_size = sizeof listening;
    if (lie_ == "short status") listening.struct_size = 24;
    emit(listening);
    if (lie_ == "platform is gone") throw Error{COFFER_UNAVAILABLE, "the platform is gone"};
    coffer_machine_status s = status("web", "i-1");
    if (lie_ != "foreign Machine") s.labels = labels, s.n_labels = n;
    while (emit(s)) {
    }
  }
  void try_check(const Call &, std::string_view, const coffer_probe_spec &s) override {
    if (lie_ == "probe fails") throw Error{COFFER_UNAVAILABLE, "the platform is gone"};
    if (lie_ == "passed") return;
    throw not_passed("kind " + std::to_string(s.kind) + ", port " + std::to_string(s.port) + ", " +
                     std::string(view(s.method)) + " " + std::string(view(s.path)) + "\n");
  }
  void update(const Call &call, std::string_view handle, const coffer_delivery *const *deliveries, size_t n,
              std::string_view signal) override {
    if (signal != "SIGHUP" || !n || !(deliveries[0]->flags & COFFER_DLV_FOLDER))
      throw Error{COFFER_INVALID_ARGUMENT, "what signal, which folder?"};
    start(call, handle, deliveries, n);
  }
  void sweep(const Call &call) override {
    if (lie_ == "sweep fails") throw Error{COFFER_UNAVAILABLE, "nothing was swept"};
    Runtime::sweep(call);
  }
  const void *interface(std::string_view id) noexcept override {
    if (lie_ == "no exec" && id != COFFER_RUNTIME_ID) return nullptr;
    if (id == COFFER_RUNTIME_IMAGES_ID) return &kImages;
    if (id == COFFER_RUNTIME_EVENTS_ID) return &kEvents;
    if (id == COFFER_RUNTIME_PROBE_ID) return &kProbe;
    if (id == COFFER_RUNTIME_UPDATE_ID) return &kUpdate;
    return Runtime::interface(id);
  }

 private:
  // What is later than 1.0, as it arrived.
  static std::string fields_of(const coffer_machine_spec &spec) {
    if (spec.struct_size != sizeof spec) return "short";
    std::string out = "flags " + std::to_string(spec.flags);
    const auto say = [&](std::string_view what) { out.append("; ").append(what); };
    for (size_t i = 0; i < spec.n_ports; ++i)
      say("port " + std::string(view(spec.ports[i]->host_ip)) + " " +
          std::to_string(spec.ports[i]->host_port) + " " + std::to_string(spec.ports[i]->port) + " " +
          std::to_string(spec.ports[i]->protocol));
    for (size_t i = 0; i < spec.n_mounts; ++i)
      say("mount " + std::string(view(spec.mounts[i]->source)) + " " +
          std::string(view(spec.mounts[i]->target)) + " " + std::to_string(spec.mounts[i]->flags));
    for (size_t i = 0; i < spec.n_cap_drop; ++i) say("cap " + std::string(view(spec.cap_drop[i])));
    say("network " + std::string(view(spec.network)));
    say("memory " + std::to_string(spec.memory_bytes));
    say("stop " + std::string(view(spec.stop_signal)) + " " + std::to_string(spec.stop_timeout_ns));
    return out;
  }
  static coffer_machine_status status(std::string_view name, std::string_view instance_id) {
    coffer_machine_status s{};
    s.struct_size = sizeof s;
    s.state = COFFER_M_STARTED;
    s.name = to_str(name);
    s.instance_id = to_str(instance_id);
    s.handle = to_bytes("handle");
    return s;
  }
  std::string lie_;
};

}  // namespace

COFFER_PLUGIN(FakeRuntime, kDescriptor);
