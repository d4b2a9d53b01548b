// A runtime that runs nothing: an instance is a folder of small files below `path`, which a test reads and
// changes.
//   calls                          one line per call that changes something: "create ID", "start ID" ...
//   instances/ID/state             created, started, stopped, failed
//   instances/ID/name, label-KEY   as created
//   instances/ID/argv              one line each
//   instances/ID/image, stop       as created: the image; stop signal and timeout in nanoseconds
//   image                          the last image that was asked for, and " pull"; its reference is NAME@1
//   stopped-with                   signal and timeout of the last stop
//   instances/ID/env-NAME          plain variables; the secret ones come at start
//   instances/ID/file-NAME         files, '/' written ','; mode-NAME beside them
// It is told to fail by fail-create, fail-start, fail-stop, fail-destroy, fail-inspect, fail-list, fail-image
// (faults.h).
#include <algorithm>
#include <coffer/runtime.hpp>
#include <filesystem>

#include "faults.h"

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
    for (size_t i = 0; i < n; ++i) {
      const coffer_delivery &d = *deliveries[i];
      std::string name(view(d.name));
      std::ranges::replace(name, '/', ',');
      write(dir / ((d.via == COFFER_VIA_ENV ? "env-" : "file-") + name), view(d.value));
      if (d.via != COFFER_VIA_ENV) write(dir / ("mode-" + name), std::to_string(d.mode));
    }
    write(dir / "state", "started");
    fault.after();
  }

  void stop(const Call &, std::string_view handle, std::string_view signal, uint64_t timeout_ns) override {
    const std::string id = id_of(handle);
    write(fs::path(folder_) / "stopped-with", std::string(signal) + " " + std::to_string(timeout_ns));
    const Fault fault(folder_, "stop");
    note(folder_, "stop " + id);
    fault.before();
    if (fs::exists(instance(id))) write(instance(id) / "state", "stopped");
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
      const bool all = std::all_of(labels, labels + n, [&](const coffer_pair &l) {
        return read(entry.path() / ("label-" + std::string(view(l.key)))) == view(l.value);
      });
      if (all) tell(entry.path().filename().string(), emit);
    }
  }

  void wait(const Call &, std::string_view handle, const Machines &emit) override {
    tell(id_of(handle), emit);
  }
  void logs(const Call &, std::string_view, const coffer_log_query &, const Chunks &) override {}
  std::string ensure_image(const Call &, std::string_view image, uint32_t flags,
                           const Lines &progress) override {
    const bool pull = flags & COFFER_IMAGE_PULL;
    write(fs::path(folder_) / "image", std::string(image) + (pull ? " pull" : ""));
    if (pull) progress("pulling " + std::string(image));
    Fault(folder_, "image").before();
    return std::string(image) + "@1";
  }
  const void *interface(std::string_view id) noexcept override {
    return id == COFFER_RUNTIME_IMAGES_ID ? &kImages : Runtime::interface(id);
  }
  int32_t exec(const Call &, std::string_view, const coffer_exec_spec &, const coffer_exec_io &) override {
    throw Error{COFFER_UNIMPLEMENTED, "nothing runs here"};
  }

 private:
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
  void tell(const std::string &id, const Machines &emit) const {
    const fs::path dir = instance(id);
    const std::string state = read(dir / "state"), name = read(dir / "name"), handle = "files:" + id;
    std::vector<std::pair<std::string, std::string>> labels;
    for (const auto &entry : fs::directory_iterator(dir))
      if (const std::string file = entry.path().filename().string(); file.starts_with("label-"))
        labels.emplace_back(file.substr(6), read(entry.path()));
    std::vector<coffer_pair> raw;
    for (const auto &[key, value] : labels) raw.push_back({to_str(key), to_bytes(value)});
    coffer_machine_status s{};
    s.struct_size = sizeof s;
    s.state = state == "created"   ? COFFER_M_CREATED
              : state == "started" ? COFFER_M_STARTED
              : state == "stopped" ? COFFER_M_STOPPED
                                   : COFFER_M_FAILED;
    s.name = to_str(name);
    s.instance_id = to_str(id);
    s.handle = to_bytes(handle);
    s.exit_code = state == "failed" ? 1 : 0;
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
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_RUNTIME_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "coffer.tests.runtime-files",
                                        .name = "runtime-files",
                                        .version = "0.1.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = std::size(kOptions)};

}  // namespace

COFFER_PLUGIN(FileRuntime, kDescriptor);
