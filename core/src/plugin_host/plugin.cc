// Rationale: Boost.DLL is used here and nowhere else, and only to load by absolute path and to get one
// symbol. Its lazy mode, its name decoration and its search in the current directory are not used.
#include "coffer/plugin_host/plugin.h"

#define BOOST_DLL_USE_STD_FS
#include <dlfcn.h>
#include <poll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <boost/dll/shared_library.hpp>
#include <charconv>
#include <cstring>

#include "bridge.h"
#include "host_services.h"
#include "options.h"
#include "plugin_file.h"

namespace coffer {
namespace {

namespace fs = std::filesystem;
using bridge::str;
using bridge::view;

std::unexpected<Error> unfit(const fs::path &path, std::string_view why, std::string remedy = {}) {
  return fail(ErrorCode::kFailedPrecondition,
              "plugin file " + printable(path.native(), 4096) + " " + std::string(why), std::move(remedy));
}

bool is_text(const char *s, size_t max) {
  if (!s) return false;
  return bridge::is_name({s, ::strnlen(s, max + 1)}, max);
}

Result<void> check_descriptor(const fs::path &path, const coffer_descriptor *d) {
  if (!d) return unfit(path, "has no descriptor");
  if (d->struct_size < sizeof(coffer_descriptor)) return unfit(path, "has a descriptor that is too short");
  if (!is_text(d->name, 128) || !is_text(d->version, 128))
    return unfit(path, "has a descriptor without name or version");
  if (!d->interfaces || d->n_interfaces == 0 || d->n_interfaces > 64)
    return unfit(path, "declares no interface");
  for (size_t i = 0; i < d->n_interfaces; ++i)
    if (!is_text(d->interfaces[i].id, 128)) return unfit(path, "declares an interface without a name");
  if (d->n_options > 256 || (d->n_options && !d->options))
    return unfit(path, "has a broken table of options");
  for (size_t i = 0; i < d->n_options; ++i) {
    const coffer_option *o = d->options[i];
    if (!o || o->struct_size < sizeof(coffer_option) || !is_text(o->key, 128))
      return unfit(path, "has a broken table of options");
  }
  return {};
}

Result<void> check_entry(const fs::path &path, const coffer_plugin_entry &e) {
  if (e.magic != COFFER_ABI_MAGIC) return unfit(path, "is not a Coffer plugin: its magic number is another");
  if (e.abi_major != COFFER_ABI_MAJOR)
    return unfit(path,
                 "was built for version " + std::to_string(e.abi_major) + " of the plugin ABI, not for 1",
                 "build it with the headers of this Coffer");
  if (e.struct_size < sizeof(coffer_plugin_entry)) return unfit(path, "has an entry that is too short");
  if (e.host_minor_min > COFFER_ABI_MINOR)
    return unfit(path,
                 "needs version 1." + std::to_string(e.host_minor_min) + " of the plugin ABI, this is 1." +
                     std::to_string(COFFER_ABI_MINOR),
                 "use a newer Coffer or an older plugin");
  COFFER_CHECK(check_descriptor(path, e.descriptor));
  if (!e.open || !e.close || !e.get_interface) return unfit(path, "has an entry without open or close");
  return {};
}

// dlopen and the entry symbol.  The library is never unloaded: its threads and constants live on.
// REQUIRES: one caller at a time.
Result<const coffer_plugin_entry *> load_entry(const fs::path &path) {
  using boost::dll::shared_library;
  namespace load_mode = boost::dll::load_mode;
  const auto mode = static_cast<load_mode::type>(static_cast<int>(load_mode::rtld_now) |
                                                 static_cast<int>(load_mode::rtld_local) | RTLD_NODELETE);
  static auto &kept = *new std::vector<std::unique_ptr<shared_library>>;  // never destroyed
  std::unique_ptr<shared_library> library;
  try {
    library = std::make_unique<shared_library>(path, mode);
  } catch (const std::exception &e) {
    // The dynamic linker's text names files and symbols and holds nothing else.
    return unfit(path, "cannot be loaded: " + printable(e.what(), 512));
  }
  try {
    const auto &entry = library->get<const coffer_plugin_entry>(COFFER_PLUGIN_SYMBOL_NAME);
    kept.push_back(std::move(library));
    return &entry;
  } catch (const std::exception &) {
    return unfit(path, "is not a Coffer plugin: it exports no " COFFER_PLUGIN_SYMBOL_NAME,
                 "a plugin for another major version exports another symbol");
  }
}

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

std::string_view text_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kInvalidArgument:
      return "the plugin refuses the request";
    case ErrorCode::kDeadlineExceeded:
      return "not finished in time; whether it took effect is unknown";
    case ErrorCode::kNotFound:
      return "not found";
    case ErrorCode::kAlreadyExists:
      return "exists already";
    case ErrorCode::kPermissionDenied:
      return "not allowed";
    case ErrorCode::kResourceExhausted:
      return "out of memory or space";
    case ErrorCode::kFailedPrecondition:
      return "the state of the backend forbids it";
    case ErrorCode::kAborted:
      return "somebody else changed it in the meantime";
    case ErrorCode::kOutOfRange:
      return "out of range";
    case ErrorCode::kUnavailable:
      return "the backend is not available";
    case ErrorCode::kDataLoss:
      return "data is lost or damaged";
    case ErrorCode::kUnauthenticated:
      return "the backend does not accept the credentials";
    case ErrorCode::kUnimplemented:
    case ErrorCode::kUnknown:
    case ErrorCode::kInternal:
      break;
  }
  return "the plugin failed without saying why";
}

// The folder that only the plugin and its owner read.
Result<void> prepare_state_dir(const PluginConfig &config) {
  if (config.state_dir.empty()) return {};
  const std::string named = "state folder " + printable(config.state_dir.native(), 4096);
  if (!config.state_dir.is_absolute()) return fail(ErrorCode::kInvalidArgument, named + " is not absolute");
  struct stat st;
  if (::lstat(config.state_dir.c_str(), &st) != 0) {
    if (config.read_only) return {};
    std::error_code ec;
    fs::create_directories(config.state_dir.parent_path(), ec);
    if (ec || (::mkdir(config.state_dir.c_str(), 0700) != 0 && errno != EEXIST) ||
        ::lstat(config.state_dir.c_str(), &st) != 0)
      return fail(ErrorCode::kPermissionDenied, named + " cannot be made");
  }
  if (!S_ISDIR(st.st_mode)) return fail(ErrorCode::kFailedPrecondition, named + " is not a folder");
  if (st.st_uid != ::geteuid()) return fail(ErrorCode::kPermissionDenied, named + " belongs to another user");
  if (st.st_mode & 077)
    return fail(ErrorCode::kPermissionDenied, named + " is open to its group or others",
                "chmod 700 " + printable(config.state_dir.native(), 4096));
  return {};
}

}  // namespace

// ---- Plugin ----

std::string Plugin::name() const { return descriptor().name; }

bool Plugin::serves(std::string_view interface_id) const {
  const coffer_descriptor &d = descriptor();
  return std::any_of(d.interfaces, d.interfaces + d.n_interfaces,
                     [&](const coffer_interface_ref &i) { return interface_id == i.id; });
}

Result<fs::path> Plugin::locate(const PluginConfig &config) { return checked_plugin_file(config); }

Result<const Plugin *> Plugin::load(const PluginConfig &config) {
  // What is loaded stays; instances point at it until the process ends.
  static std::mutex mutex;
  static auto &loaded = *new std::map<fs::path, std::unique_ptr<const Plugin>>;

  COFFER_TRY(const fs::path path, locate(config));
  const std::lock_guard lock(mutex);
  if (const auto found = loaded.find(path); found != loaded.end()) return found->second.get();

  const auto in_section = [&](Error e) { return std::unexpected(std::move(e).in(config.section)); };
  const Result<const coffer_plugin_entry *> entry = load_entry(path);
  if (!entry) return in_section(entry.error());
  if (const Result<void> fit = check_entry(path, **entry); !fit) return in_section(fit.error());
  std::unique_ptr<const Plugin> plugin(new Plugin(path, *entry));
  if ((*entry)->init) {
    PluginInstance::Call call(*plugin, "init", {});
    if (const Result<void> done = call.finish((*entry)->init(&host_services(), call.raw())); !done)
      return in_section(done.error());
  }
  return loaded.emplace(path, std::move(plugin)).first->second.get();
}

// ---- PluginInstance ----

Result<PluginInstance> PluginInstance::open(const PluginConfig &config) {
  COFFER_TRY(const Plugin *const plugin, Plugin::load(config));
  COFFER_TRY(const ResolvedOptions options, ResolvedOptions::resolve(config, *plugin));
  std::vector<coffer_pair> pairs;
  const coffer_open_args args = options.args(config, pairs);
  const auto in_section = [&](Error e) { return std::unexpected(std::move(e).in(config.section)); };

  if (plugin->entry().validate) {
    bridge::BytesSink notes(4096);  // the first of them is the text of fail(); the rest is for `doctor`
    Call call(*plugin, "options", {});
    const coffer_status status = plugin->entry().validate(call.raw(), &args, notes.raw());
    if (const Result<void> valid = call.finish(status); !valid && status != COFFER_UNIMPLEMENTED)
      return in_section(valid.error());
  }
  if (const Result<void> ready = prepare_state_dir(config); !ready) return in_section(ready.error());

  coffer_instance *raw = nullptr;
  Call call(*plugin, "open", {});
  if (const Result<void> opened = call.finish(plugin->entry().open(call.raw(), &args, &raw)); !opened)
    return in_section(opened.error());
  if (!raw)
    return in_section(
        {ErrorCode::kInternal, "plugin " + plugin->name() + ": open: answered OK without an instance"});
  return PluginInstance(plugin, raw);
}

PluginInstance::PluginInstance(PluginInstance &&o) noexcept
    : plugin_(o.plugin_), instance_(std::exchange(o.instance_, nullptr)) {}

PluginInstance &PluginInstance::operator=(PluginInstance &&o) noexcept {
  std::swap(plugin_, o.plugin_);
  std::swap(instance_, o.instance_);
  return *this;
}

PluginInstance::~PluginInstance() {
  if (instance_) plugin_->entry().close(instance_);
}

const void *PluginInstance::interface(const char *id) const {
  return plugin_->entry().get_interface(instance_, id);
}

Result<std::string> PluginInstance::probe(const CallOptions &options) const {
  if (!plugin_->entry().probe) return std::string("{}");
  bridge::BytesSink health(64 * 1024);
  COFFER_CHECK(call("probe", options, [&](coffer_instance *i, const coffer_call *c) {
    return plugin_->entry().probe(i, c, health.raw());
  }));
  return printable(health.text(), 64 * 1024);
}

// ---- PluginInstance::Call ----

PluginInstance::Call::Call(const Plugin &plugin, std::string_view what, const CallOptions &options)
    : plugin_(plugin), what_(what) {
  static std::atomic<uint64_t> calls{0};
  const auto end = std::to_chars(request_id_, request_id_ + sizeof request_id_, ++calls).ptr;
  raw_.struct_size = sizeof raw_;
  raw_.cancel_fd = options.cancel_fd;
  if (options.timeout_ns) {
    const uint64_t now = monotonic_ns();
    raw_.deadline_ns = options.timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + options.timeout_ns;
  }
  raw_.host_data = this;
  raw_.request_id = {request_id_, static_cast<size_t>(end - request_id_)};
  raw_.cancelled = [](const coffer_call *c) noexcept -> int32_t {
    pollfd p{c->cancel_fd, POLLIN, 0};
    return c->cancel_fd >= 0 && ::poll(&p, 1, 0) > 0;
  };
  raw_.fail = [](const coffer_call *c, coffer_status, const coffer_error *e) noexcept {
    if (!COFFER_HAS(e, coffer_error, message)) return;
    auto &self = *static_cast<Call *>(c->host_data);
    bridge::contained([&] {
      const std::lock_guard lock(self.mutex_);
      self.text_ = printable(view(e->message), 1024);
      self.retry_after_ms_ = e->retry_after_ms;
      self.remedy_ = COFFER_HAS(e, coffer_error, remedy) ? printable(view(e->remedy), 1024) : "";
    });
  };
}

Result<void> PluginInstance::Call::finish(coffer_status status) {
  if (status == COFFER_OK) return {};
  const auto code = status >= 1 && status <= 16 ? static_cast<ErrorCode>(status) : ErrorCode::kUnknown;
  const std::lock_guard lock(mutex_);
  const std::string plugin = "plugin " + plugin_.name();
  if (code == ErrorCode::kUnimplemented && text_.empty())
    return fail(code, plugin + " cannot " + std::string(what_));
  std::string remedy = remedy_;
  if (remedy.empty() && retry_after_ms_)
    remedy = "try again in " + std::to_string((retry_after_ms_ - 1) / 1000 + 1) + " s";
  return fail(
      code, plugin + ": " + std::string(what_) + ": " + (text_.empty() ? std::string(text_of(code)) : text_),
      std::move(remedy));
}

// ---- bridge ----

namespace bridge {

Result<PluginInstance> open_serving(const PluginConfig &config, const char *interface_id) {
  COFFER_TRY(const Plugin *const plugin, Plugin::load(config));
  if (!plugin->serves(interface_id)) {
    std::string served;
    for (size_t i = 0; i < plugin->descriptor().n_interfaces; ++i)
      served += (i ? ", " : "") + std::string(plugin->descriptor().interfaces[i].id);
    return fail(ErrorCode::kInvalidArgument, config.section + ": plugin " + plugin->name() + " serves " +
                                                 served + ", not " + interface_id);
  }
  return PluginInstance::open(config);
}

std::unexpected<Error> wrong_answer(const PluginInstance &instance, std::string_view what, Objection why) {
  return fail(why.code, "plugin " + instance.plugin().name() + ": " + std::string(what) + ": " + why.text);
}

}  // namespace bridge
}  // namespace coffer
