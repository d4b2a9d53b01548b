// storage-kill: another storage plugin, in a process that dies at a chosen commit.
//
//   inner   path of the other plugin's .so
//   path    given to it
//   kill    a file that says when: "N" or "N before".  The Nth commit (or drop of a space), counted over all
//           processes and stores that name this file, raises SIGKILL in the process that makes it, right
//           after the inner call returned OK; `before`: in its place.  The file is then KILL.done, so this
//           happens once.  No file: never, and nothing is counted.  The count is in KILL.count; whoever
//           writes `kill` anew (by rename) removes that first.
//   steps   a file that gets a line for each commit that was made: "PID SPACE KEY KEY ...", "PID SPACE drop"
//
// Whoever uses `kill` and `steps` with processes of several users makes them writable for all.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <coffer/posix.hpp>
#include <coffer/storage.hpp>
#include <cstdio>
#include <fstream>
#include <string>

namespace {

using namespace coffer::sdk;

// The other plugin, loaded once more or for the first time; never unloaded.
const coffer_plugin_entry &load(const Call &call, const std::string &file) {
  void *library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  const void *symbol = library ? ::dlsym(library, COFFER_PLUGIN_SYMBOL_NAME) : nullptr;
  if (!symbol) throw Error{COFFER_FAILED_PRECONDITION, "the inner plugin " + file + " cannot be loaded"};
  const auto &entry = *static_cast<const coffer_plugin_entry *>(symbol);
  if (entry.init && entry.init(Host::raw(), call.raw()) != COFFER_OK)
    throw Error{COFFER_FAILED_PRECONDITION, "the inner plugin " + file + " does not begin"};
  return entry;
}

// The call as the inner plugin gets it while it opens: what it says is kept, and said once more by us.
struct Heard {
  explicit Heard(const Call &call) : outer(call.raw()) {
    raw = *outer;
    raw.struct_size = sizeof raw;
    raw.host_data = this;
    raw.cancelled = [](const coffer_call *c) noexcept -> int32_t { return Call(of(c).outer).cancelled(); };
    raw.fail = [](const coffer_call *c, coffer_status, const coffer_error *e) noexcept {
      of(c).message = view(e->message);
      if (COFFER_HAS(e, coffer_error, remedy)) of(c).remedy = view(e->remedy);
    };
  }
  Heard(const Heard &) = delete;
  Heard &operator=(const Heard &) = delete;
  static Heard &of(const coffer_call *c) noexcept { return *static_cast<Heard *>(c->host_data); }
  const coffer_call *outer;
  coffer_call raw;
  std::string message, remedy;
};

class Killer {
 public:
  explicit Killer(std::string file) : file_(std::move(file)) {}

  void before_commit() const {
    if (const Order o = order(); o.at && o.before) count(o);
  }
  void after_commit() const {
    if (const Order o = order(); o.at && !o.before) count(o);
  }

 private:
  struct Order {
    uint64_t at = 0;  // 0: never
    bool before = false;
  };
  Order order() const {
    Order o;
    std::string word;
    if (file_.empty()) return o;
    std::ifstream in(file_);
    if (in >> o.at && in >> word) o.before = word == "before";
    return o;
  }
  void count(const Order &o) const {
    const Fd counter(::open((file_ + ".count").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (!counter || ::flock(counter.get(), LOCK_EX) != 0)
      throw Error{COFFER_INTERNAL, "storage-kill cannot count in " + file_ + ".count"};
    char text[24] = "";
    (void)!::pread(counter.get(), text, sizeof text - 1, 0);
    const uint64_t n = std::strtoull(text, nullptr, 10) + 1;
    const int size = std::snprintf(text, sizeof text, "%llu\n", static_cast<unsigned long long>(n));
    (void)!::pwrite(counter.get(), text, static_cast<size_t>(size), 0);
    // Only one process renames it.
    if (n < o.at || std::rename(file_.c_str(), (file_ + ".done").c_str()) != 0) return;
    ::kill(::getpid(), SIGKILL);
    for (;;) ::pause();
  }

  std::string file_;
};

class KillStorage final : public Instance {
 public:
  static std::unique_ptr<Instance> open(const Call &call, const Options &o) {
    return std::make_unique<KillStorage>(call, o);
  }

  KillStorage(const Call &call, const Options &o)
      : entry_(load(call, std::string(o.get("inner")))),
        killer_(std::string(o.get("kill"))),
        steps_(o.get("steps")) {
    const coffer_pair path = {to_str("path"), to_bytes(o.get("path"))};
    coffer_open_args args{};
    args.struct_size = sizeof args;
    args.flags = (o.ambient() ? COFFER_OPEN_ALLOW_ENV : 0u) | (o.read_only() ? COFFER_OPEN_READONLY : 0u);
    args.instance_name = to_str(o.instance_name());
    args.options = &path;
    args.n_options = 1;
    args.state_dir = to_str(o.state_dir());
    Heard heard(call);
    if (const coffer_status s = entry_.open(&heard.raw, &args, &inner_); s != COFFER_OK)
      throw Error{s, heard.message, {}, 0, 0, heard.remedy};
    const auto *table = static_cast<const coffer_storage *>(entry_.get_interface(inner_, COFFER_STORAGE_ID));
    if (!table || table->struct_size < sizeof table_) {
      entry_.close(inner_);
      throw Error{COFFER_FAILED_PRECONDITION, "the inner plugin is no whole storage"};
    }
    of_inner_ = *table;
    table_.features = table->features;
  }
  ~KillStorage() override { entry_.close(inner_); }

  const void *interface(std::string_view id) noexcept override {
    return id == COFFER_STORAGE_ID ? &table_ : nullptr;
  }

 private:
  static const KillStorage &self(coffer_instance *i) noexcept { return as<KillStorage>(i); }

  // The inner one has its say about a failure by the same call.
  static coffer_status limits(coffer_instance *i, const coffer_call *c, coffer_storage_limits *out) noexcept {
    return self(i).of_inner_.limits(self(i).inner_, c, out);
  }
  static coffer_status get(coffer_instance *i, const coffer_call *c, coffer_str space, coffer_str key,
                           coffer_emit_value emit, void *ctx) noexcept {
    return self(i).of_inner_.get(self(i).inner_, c, space, key, emit, ctx);
  }
  static coffer_status list(coffer_instance *i, const coffer_call *c, coffer_str space, coffer_str prefix,
                            coffer_str after, uint64_t limit, uint32_t with_values, coffer_emit_value emit,
                            void *ctx) noexcept {
    return self(i).of_inner_.list(self(i).inner_, c, space, prefix, after, limit, with_values, emit, ctx);
  }
  static coffer_status spaces(coffer_instance *i, const coffer_call *c, coffer_str prefix,
                              coffer_emit_space emit, void *ctx) noexcept {
    return self(i).of_inner_.spaces(self(i).inner_, c, prefix, emit, ctx);
  }
  static coffer_status commit(coffer_instance *i, const coffer_call *c, const coffer_batch *batch,
                              uint64_t *revision) noexcept {
    return self(i).step(
        c, [&] { return self(i).of_inner_.commit(self(i).inner_, c, batch, revision); },
        [&] {
          std::string line(view(batch->space));
          for (size_t k = 0; k < batch->n_ops; ++k) line += " " + std::string(view(batch->ops[k]->key));
          return line;
        });
  }
  static coffer_status drop_space(coffer_instance *i, const coffer_call *c, coffer_str space) noexcept {
    return self(i).step(
        c, [&] { return self(i).of_inner_.drop_space(self(i).inner_, c, space); },
        [&] { return std::string(view(space)) + " drop"; });
  }

  template <class Do, class Say>
  coffer_status step(const coffer_call *call, Do &&make, Say &&line) const noexcept {
    return guard(call, [&]() -> coffer_status {
      killer_.before_commit();
      if (const coffer_status s = make(); s != COFFER_OK) return s;
      if (!steps_.empty()) {
        const std::string text = std::to_string(::getpid()) + " " + line() + "\n";
        const Fd file(::open(steps_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
        (void)!::write(file.get(), text.data(), text.size());
      }
      killer_.after_commit();
      return COFFER_OK;
    });
  }

  const coffer_plugin_entry &entry_;
  coffer_instance *inner_ = nullptr;
  coffer_storage of_inner_{};
  coffer_storage table_ = {sizeof(coffer_storage), 0, 0, &limits, &get, &list, &commit, &spaces, &drop_space};
  Killer killer_;
  std::string steps_;
};

constexpr coffer_option path_option(const char *key, uint32_t flags, const char *doc) {
  return {.struct_size = sizeof(coffer_option),
          .type = COFFER_OPT_PATH,
          .flags = flags,
          .key = key,
          .doc = doc,
          .min_value = 1};
}
constexpr coffer_option kInner =
    path_option("inner", COFFER_OPTF_REQUIRED | COFFER_OPTF_EXISTS, "the other storage plugin");
constexpr coffer_option kPath = path_option("path", COFFER_OPTF_REQUIRED, "given to the other one");
constexpr coffer_option kKill =
    path_option("kill", 0, "at which commit the process dies: \"N\" or \"N before\"");
constexpr coffer_option kSteps = path_option("steps", 0, "gets a line for each commit");
constexpr const coffer_option *kOptions[] = {&kInner, &kPath, &kKill, &kSteps};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "coffer.tests.storage-kill",
                                        .name = "storage-kill",
                                        .version = "0.1.0",
                                        .doc = "Another storage, in a process that dies at a chosen commit.",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = std::size(kOptions)};

}  // namespace

COFFER_PLUGIN(KillStorage, kDescriptor);
