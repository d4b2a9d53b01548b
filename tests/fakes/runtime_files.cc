// A runtime that runs nothing: an instance is a folder of small files below `path`, which a test reads and
// changes.
//   calls                          one line per call that changes something: "create ID", "start ID" ...
//   instances/ID/state             created, started, stopped, failed
//   instances/ID/started-ns, exit-code, exit-signal, out-of-memory    numbers
//   instances/ID/name, label-KEY   as created
//   instances/ID/argv              one line each
//   instances/ID/image, stop       as created: the image; stop signal and timeout in nanoseconds
//   image                          the last image that was asked for, and " pull"; its reference is NAME@1
//   stopped-with                   signal and timeout of the last stop
//   instances/ID/env-NAME          plain variables; the secret ones come at start
//   instances/ID/file-NAME         files, '/' written ','; mode-NAME beside them
//   instances/ID/log               a variable CHATTY makes the app write its environment there; it comes in
//   pieces of 5
//                                  bytes, and a variable DIES makes it end at once with that exit code
//   instances/ID/listens-PORT      made by the test: a check of that port passes
//   instances/ID/probes            one line per try: "tcp 80", "http 80 GET /health"
// It is told to fail by fail-create, fail-start, fail-stop, fail-destroy, fail-inspect, fail-list,
// fail-image, fail-probe, fail-update, fail-events (faults.h).  The last ends events() as well that is
// already listening.  An update changes files as a start does, and is noted as "update ID SIGNAL".
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <coffer/runtime.hpp>
#include <filesystem>
#include <map>

#include "faults.h"

#ifndef COFFER_FAKE_FLAGS
#define COFFER_FAKE_FLAGS 0
#endif

namespace {

using namespace coffer::sdk;
using coffer::fakes::Fault;
using coffer::fakes::note;
namespace fs = std::filesystem;

std::string read(const fs::path &file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const fs::path &file, std::string_view content) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
}

int64_t number(const fs::path &file, int64_t absent = 0) {
  const std::string text = read(file);
  return text.empty() ? absent : std::stoll(text);
}

class FileRuntime final : public Runtime<COFFER_VIA_ENV | COFFER_VIA_TMPFS, 0> {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    return std::make_unique<FileRuntime>(o);
  }
  explicit FileRuntime(const Options &o) : folder_(o.get("path")) {
    fs::create_directories(fs::path(folder_) / "instances");
  }

  void create(const Call &, const coffer_machine_spec &spec, const Machines &emit) override {
    const std::string id(view(spec.instance_id));
    const Fault fault(folder_, "create");
    fault.before();
    const fs::path dir = instance(id);
    if (!fs::exists(dir)) {
      note(folder_, "create " + id);
      fs::create_directory(dir);
      write(dir / "name", view(spec.name));
      std::string argv;
      for (size_t i = 0; i < spec.n_argv; ++i) argv += std::string(view(spec.argv[i])) + '\n';
      write(dir / "argv", argv);
      write(dir / "image", view(spec.image));
      write(dir / "stop", std::string(view(spec.stop_signal)) + " " + std::to_string(spec.stop_timeout_ns));
      for (size_t i = 0; i < spec.n_env; ++i)
        write(dir / ("env-" + std::string(view(spec.env[i].key))), view(spec.env[i].value));
      for (size_t i = 0; i < spec.n_labels; ++i)
        write(dir / ("label-" + std::string(view(spec.labels[i].key))), view(spec.labels[i].value));
      for (size_t i = 0; i < spec.n_deliveries; ++i)
        if (spec.deliveries[i]->value.size) throw Error{COFFER_INVALID_ARGUMENT, "a value came before start"};
      write(dir / "state", "created");
    }
    fault.after();
    tell(id, emit);
  }

  void start(const Call &, std::string_view handle, const coffer_delivery *const *deliveries,
             size_t n) override {
    const std::string id = id_of(handle);
    const Fault fault(folder_, "start");
    note(folder_, "start " + id);
    fault.before();
    const fs::path dir = existing(id);
    put_files(dir, deliveries, n);
    write(dir / "started-ns",
          std::to_string(std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1)));
    if (fs::exists(dir / "env-CHATTY")) {
      std::string log;
      for (const auto &entry : fs::directory_iterator(dir))
        if (const std::string name = entry.path().filename(); name.starts_with("env-"))
          log += name.substr(4) + " is " + read(entry.path()) + '\n';
      write(dir / "log", log);
    }
    become(id, "started");
    if (const std::string dies = read(dir / "env-DIES"); !dies.empty()) {
      write(dir / "exit-code", dies);
      become(id, "failed");
    }
    fault.after();
  }

  void stop(const Call &, std::string_view handle, std::string_view signal, uint64_t timeout_ns) override {
    const std::string id = id_of(handle);
    write(fs::path(folder_) / "stopped-with", std::string(signal) + " " + std::to_string(timeout_ns));
    const Fault fault(folder_, "stop");
    note(folder_, "stop " + id);
    fault.before();
    if (fs::exists(instance(id))) become(id, "stopped");
    fault.after();
  }

  void destroy(const Call &, std::string_view handle, bool) override {
    const std::string id = id_of(handle);
    const Fault fault(folder_, "destroy");
    note(folder_, "destroy " + id);
    fault.before();
    fs::remove_all(instance(id));
    fault.after();
  }

  void inspect(const Call &, std::string_view handle, const Machines &emit) override {
    Fault(folder_, "inspect").before();
    existing(id_of(handle));
    tell(id_of(handle), emit);
  }

  void list(const Call &, const coffer_pair *labels, size_t n, const Machines &emit) override {
    Fault(folder_, "list").before();
    for (const auto &entry : fs::directory_iterator(fs::path(folder_) / "instances")) {
      const std::string id = entry.path().filename().string();
      if (carries(labels_of(id), labels, n)) tell(id, emit);
    }
  }

  void events(const Call &call, const coffer_pair *labels, size_t n, const Machines &emit) override {
    Fault(folder_, "events").before();
    struct Inotify {
      int fd = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
      ~Inotify() { ::close(fd); }
    } watch;
    std::map<int, std::string> ids;  // of the folders that are watched
    const int faults = ::inotify_add_watch(watch.fd, folder_.c_str(), IN_CLOSE_WRITE);
    const fs::path all = fs::path(folder_) / "instances";
    const int instances = ::inotify_add_watch(watch.fd, all.c_str(), IN_CREATE | IN_DELETE);
    const auto add = [&](const std::string &id) {
      ids[::inotify_add_watch(watch.fd, instance(id).c_str(), IN_MOVED_TO | IN_ONLYDIR)] = id;
    };
    for (const auto &entry : fs::directory_iterator(all)) add(entry.path().filename());
    coffer_machine_status listens{};
    listens.struct_size = sizeof listens;
    emit(listens);
    // What is gone has no labels to read any more.
    std::map<std::string, std::vector<std::pair<std::string, std::string>>> kept;
    for (;;) {
      pollfd fds[] = {{watch.fd, POLLIN, 0}, {call.cancel_fd(), POLLIN, 0}};
      ::poll(fds, 2, -1);
      if (fds[1].revents) throw Error{COFFER_CANCELLED, "cancelled"};
      alignas(inotify_event) char buffer[4096];
      const ssize_t size = ::read(watch.fd, buffer, sizeof buffer);
      for (const char *at = buffer; at < buffer + size;) {
        const auto *e = reinterpret_cast<const inotify_event *>(at);
        at += sizeof *e + e->len;
        const std::string name = e->len ? e->name : "";
        if (e->wd == faults) Fault(folder_, "events").before();
        if (e->wd == instances && e->mask & IN_CREATE) add(name);
        const std::string id = e->wd == instances ? name : ids[e->wd];
        if (e->wd == faults || id.empty()) continue;
        if (auto now = labels_of(id); !now.empty()) kept[id] = std::move(now);
        if (carries(kept[id], labels, n)) tell(id, kept[id], emit);
      }
    }
  }

  void wait(const Call &call, std::string_view handle, const Machines &emit) override {
    const std::string id = id_of(handle), before = read(instance(id) / "state");
    if (before == "started" && call.deadline_ns()) {
      pollfd cancel{call.cancel_fd(), POLLIN, 0};
      // Nobody tells of changes here.
      while (read(instance(id) / "state") == before) {
        if (::poll(&cancel, 1, 5) > 0) throw Error{COFFER_CANCELLED, "cancelled"};
        const auto now = std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
        if (static_cast<uint64_t>(now) >= call.deadline_ns())
          throw Error{COFFER_DEADLINE_EXCEEDED, "still so"};
      }
    }
    tell(id, emit);
  }
  void logs(const Call &, std::string_view handle, const coffer_log_query &, const Chunks &each) override {
    const std::string log = read(instance(id_of(handle)) / "log");
    for (size_t at = 0; at < log.size(); at += 5)
      if (!each(2, 0, std::string_view(log).substr(at, 5))) return;
  }
  std::string ensure_image(const Call &, std::string_view image, uint32_t flags,
                           const Lines &progress) override {
    const bool pull = flags & COFFER_IMAGE_PULL;
    write(fs::path(folder_) / "image", std::string(image) + (pull ? " pull" : ""));
    if (pull) progress("pulling " + std::string(image));
    Fault(folder_, "image").before();
    return std::string(image) + "@1";
  }
  void try_check(const Call &, std::string_view handle, const coffer_probe_spec &s) override {
    const fs::path dir = existing(id_of(handle));
    Fault(folder_, "probe").before();
    const std::string port = std::to_string(s.port);
    const bool http = s.kind == COFFER_PROBE_HTTP;
    std::ofstream(dir / "probes", std::ios::app)
        << (http ? "http " : "tcp ") << port << (http ? " " : "") << view(s.method) << (http ? " " : "")
        << view(s.path) << '\n';
    if (read(dir / "state") != "started") throw not_passed("the Machine is not started");
    if (!fs::exists(dir / ("listens-" + port))) throw not_passed("connection refused");
  }
  void update(const Call &, std::string_view handle, const coffer_delivery *const *deliveries, size_t n,
              std::string_view signal) override {
    const std::string id = id_of(handle);
    const Fault fault(folder_, "update");
    note(folder_, "update " + id + (signal.empty() ? "" : " " + std::string(signal)));
    fault.before();
    const fs::path dir = existing(id);
    if (read(dir / "state") != "started")
      throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
    put_files(dir, deliveries, n);
    fault.after();
  }
  const void *interface(std::string_view id) noexcept override {
    if (id == COFFER_RUNTIME_UPDATE_ID) return &kUpdate;
    if (id == COFFER_RUNTIME_PROBE_ID) return &kProbe;
    if (id == COFFER_RUNTIME_IMAGES_ID) return &kImages;
    return id == COFFER_RUNTIME_EVENTS_ID ? &kEvents : Runtime::interface(id);
  }
  int32_t exec(const Call &, std::string_view, const coffer_exec_spec &, const coffer_exec_io &) override {
    throw Error{COFFER_UNIMPLEMENTED, "nothing runs here"};
  }

 private:
  static void put_files(const fs::path &dir, const coffer_delivery *const *deliveries, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      const coffer_delivery &d = *deliveries[i];
      std::string name(view(d.name));
      std::ranges::replace(name, '/', ',');
      write(dir / ((d.via == COFFER_VIA_ENV ? "env-" : "file-") + name), view(d.value));
      if (d.via != COFFER_VIA_ENV) write(dir / ("mode-" + name), std::to_string(d.mode));
    }
  }
  static std::string id_of(std::string_view handle) {
    if (!handle.starts_with("files:"))
      throw Error{COFFER_INVALID_ARGUMENT, "the handle is another runtime's"};
    return std::string(handle.substr(6));
  }
  fs::path instance(const std::string &id) const { return fs::path(folder_) / "instances" / id; }
  fs::path existing(const std::string &id) const {
    if (!fs::exists(instance(id))) throw Error{COFFER_NOT_FOUND, "no such instance"};
    return instance(id);
  }
  // Whole or not at all, for whoever reads meanwhile.
  void become(const std::string &id, std::string_view state) const {
    write(fs::path(folder_) / ("new-" + id), state);
    fs::rename(fs::path(folder_) / ("new-" + id), instance(id) / "state");
  }
  using Labels = std::vector<std::pair<std::string, std::string>>;
  Labels labels_of(const std::string &id) const {
    Labels labels;
    std::error_code gone;
    for (const auto &entry : fs::directory_iterator(instance(id), gone))
      if (const std::string file = entry.path().filename().string(); file.starts_with("label-"))
        labels.emplace_back(file.substr(6), read(entry.path()));
    return labels;
  }
  static bool carries(const Labels &has, const coffer_pair *labels, size_t n) {
    return std::all_of(labels, labels + n, [&](const coffer_pair &l) {
      return std::ranges::find(has, std::pair(std::string(view(l.key)), std::string(view(l.value)))) !=
             has.end();
    });
  }
  void tell(const std::string &id, const Machines &emit) const { tell(id, labels_of(id), emit); }
  void tell(const std::string &id, const Labels &labels, const Machines &emit) const {
    const fs::path dir = instance(id);
    const std::string state = read(dir / "state"), name = read(dir / "name"), handle = "files:" + id;
    std::vector<coffer_pair> raw;
    for (const auto &[key, value] : labels) raw.push_back({to_str(key), to_bytes(value)});
    coffer_machine_status s{};
    s.struct_size = sizeof s;
    s.state = state == "created"   ? COFFER_M_CREATED
              : state == "started" ? COFFER_M_STARTED
              : state == "stopped" ? COFFER_M_STOPPED
              : state.empty()      ? COFFER_M_GONE
                                   : COFFER_M_FAILED;
    s.name = to_str(name);
    s.instance_id = to_str(id);
    s.handle = to_bytes(handle);
    s.exit_code = static_cast<int32_t>(number(dir / "exit-code", state == "failed" ? 1 : 0));
    s.exit_signal = static_cast<int32_t>(number(dir / "exit-signal"));
    s.flags = number(dir / "out-of-memory") ? 1u : 0u;
    s.started_ns = number(dir / "started-ns");
    s.labels = raw.data();
    s.n_labels = raw.size();
    emit(s);
  }

  std::string folder_;
};

constexpr coffer_option kPath{.struct_size = sizeof(coffer_option),
                              .type = COFFER_OPT_PATH,
                              .flags = COFFER_OPTF_REQUIRED,
                              .key = "path",
                              .min_value = 1};
constexpr const coffer_option *kOptions[] = {&kPath};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_RUNTIME_ID, 0},
                                                {COFFER_RUNTIME_EVENTS_ID, 0},
                                                {COFFER_RUNTIME_PROBE_ID, 0},
                                                {COFFER_RUNTIME_UPDATE_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .flags = COFFER_FAKE_FLAGS,
                                        .id = "coffer.tests.runtime-files",
                                        .name = "runtime-files",
                                        .version = "0.1.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = std::size(kInterfaces),
                                        .options = kOptions,
                                        .n_options = std::size(kOptions)};

}  // namespace

COFFER_PLUGIN(FileRuntime, kDescriptor);
