#include "test_host.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>

namespace coffer::conformance {
namespace fs = std::filesystem;

std::string status_name(coffer_status s) {
  static constexpr std::array kNames = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  return s >= 0 && std::size_t(s) < kNames.size() ? kNames[std::size_t(s)] : "status " + std::to_string(s);
}

// ---- TestHost ----

TestHost &TestHost::get() {
  static TestHost host;
  return host;
}

TestHost::TestHost() {
  raw_.struct_size = sizeof raw_;
  raw_.abi_major = COFFER_ABI_MAJOR;
  raw_.abi_minor = COFFER_ABI_MINOR;
  raw_.host_data = this;
  raw_.name = str("coffer-conformance");
  raw_.version = str("1");
  raw_.log_enabled = [](const coffer_host *, int32_t) noexcept -> int32_t { return 1; };
  raw_.log = [](const coffer_host *h, int32_t, coffer_str target, coffer_str message,
                const coffer_pair *fields, std::size_t n) noexcept {
    std::string line(view(target));
    line.append(": ").append(view(message));
    for (std::size_t i = 0; i < n; ++i)
      line.append(" ").append(view(fields[i].key)).append("=").append(view(fields[i].value));
    static_cast<TestHost *>(h->host_data)->record_log(std::move(line));
  };
  raw_.secure_alloc = [](const coffer_host *h, std::size_t n) noexcept -> void * {
    return static_cast<TestHost *>(h->host_data)->secure_alloc(n);
  };
  raw_.secure_free = [](const coffer_host *h, void *p, std::size_t n) noexcept {
    static_cast<TestHost *>(h->host_data)->secure_free(p, n);
  };
  raw_.cleanse = [](const coffer_host *, void *p, std::size_t n) noexcept {
    if (n) ::explicit_bzero(p, n);
  };
  raw_.random = [](const coffer_host *, void *out, std::size_t n) noexcept -> coffer_status {
    for (auto *p = static_cast<uint8_t *>(out); n;) {
      const ssize_t got = ::getrandom(p, n, 0);
      if (got < 0) return COFFER_UNAVAILABLE;
      p += got;
      n -= std::size_t(got);
    }
    return COFFER_OK;
  };
  raw_.get_interface = [](const coffer_host *, const char *) noexcept -> const void * { return nullptr; };
}

void TestHost::forget() {
  const std::lock_guard lock(mutex_);
  logs_.clear();
  errors_.clear();
}
std::string TestHost::logs() const {
  const std::lock_guard lock(mutex_);
  return logs_;
}
std::string TestHost::errors() const {
  const std::lock_guard lock(mutex_);
  return errors_;
}
std::size_t TestHost::secure_bytes() const {
  const std::lock_guard lock(mutex_);
  std::size_t sum = 0;
  for (const auto &[p, size] : secure_) sum += size;
  return sum;
}
void TestHost::record_log(std::string line) {
  const std::lock_guard lock(mutex_);
  logs_ += line + "\n";
}
void TestHost::record_error(std::string_view text) {
  const std::lock_guard lock(mutex_);
  errors_.append(text).append("\n");
}

void *TestHost::secure_alloc(std::size_t size) {
  if (size == 0) size = 1;
  void *p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  ::mlock(p, size);  // may be beyond the limit of a test run; the real host warns
  ::madvise(p, size, MADV_DONTDUMP);
  const std::lock_guard lock(mutex_);
  secure_[p] = size;
  return p;
}

void TestHost::secure_free(void *p, std::size_t size) {
  if (!p) return;
  const std::lock_guard lock(mutex_);
  const auto it = secure_.find(p);
  if (it == secure_.end() || it->second != std::max<std::size_t>(size, 1)) {
    ADD_FAILURE() << "secure_free of memory that secure_alloc did not give, or with another size";
    return;
  }
  ::explicit_bzero(p, it->second);
  ::munmap(p, it->second);
  secure_.erase(it);
}

// ---- TestCall ----

TestCall::TestCall() {
  raw_.struct_size = sizeof raw_;
  raw_.cancel_fd = -1;
  raw_.host_data = this;
  raw_.request_id = str("conformance");
  raw_.cancelled = &on_cancelled;
  raw_.fail = &on_fail;
}

TestCall::~TestCall() {
  for (const int fd : cancel_fds_)
    if (fd >= 0) ::close(fd);
}

TestCall &TestCall::deadline_in(std::chrono::nanoseconds in) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t at = int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec + in.count();
  raw_.deadline_ns = uint64_t(std::max<int64_t>(at, 1));
  return *this;
}

TestCall &TestCall::cancellable() {
  if (::pipe2(cancel_fds_, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  raw_.cancel_fd = cancel_fds_[0];
  return *this;
}

void TestCall::cancel() {
  const char byte = 1;
  if (::write(cancel_fds_[1], &byte, 1) != 1) throw std::runtime_error("cancel() without cancellable()");
}

int32_t TestCall::on_cancelled(const coffer_call *c) noexcept {
  if (c->cancel_fd < 0) return 0;
  pollfd p{c->cancel_fd, POLLIN, 0};
  return ::poll(&p, 1, 0) > 0;
}

void TestCall::on_fail(const coffer_call *c, coffer_status s, const coffer_error *e) noexcept {
  auto *self = static_cast<TestCall *>(c->host_data);
  Failure f;
  f.status = s;
  if (e) {
    f.message = view(e->message);
    f.domain = view(e->domain);
    f.native_code = e->native_code;
    f.retry_after_ms = e->retry_after_ms;
    TestHost::get().record_error(view(e->message));
    if (e->details_json.size) TestHost::get().record_error(view(e->details_json));
  }
  const std::lock_guard lock(self->mutex_);
  self->failures_.push_back(std::move(f));
}

std::vector<Failure> TestCall::failures() const {
  const std::lock_guard lock(mutex_);
  return failures_;
}
std::string TestCall::message() const {
  const std::lock_guard lock(mutex_);
  return failures_.empty() ? "" : failures_.back().message;
}

// ---- TestSink ----

TestSink::TestSink(uint32_t flags, std::size_t limit) : limit_(limit) {
  void *p =
      ::mmap(nullptr, limit_ + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  if (flags & COFFER_SINK_SECRET) ::madvise(p, limit_ + 1, MADV_DONTDUMP);
  memory_ = static_cast<uint8_t *>(p);
  raw_.struct_size = sizeof raw_;
  raw_.flags = flags;
  raw_.host_data = this;
  raw_.write = &on_write;
  raw_.reserve = &on_reserve;
  raw_.commit = &on_commit;
}

TestSink::~TestSink() {
  wipe();
  ::munmap(memory_, limit_ + 1);
}

void TestSink::wipe() {
  ::explicit_bzero(memory_, std::max(used_, reserved_ + used_));
  used_ = reserved_ = 0;
}

coffer_status TestSink::on_write(const coffer_sink *s, const void *data, std::size_t size) noexcept {
  uint8_t *to = on_reserve(s, size);
  if (!to) return COFFER_RESOURCE_EXHAUSTED;
  if (size) std::memcpy(to, data, size);
  return on_commit(s, size);
}

uint8_t *TestSink::on_reserve(const coffer_sink *s, std::size_t size) noexcept {
  auto *self = static_cast<TestSink *>(s->host_data);
  if (self->fail_reserve_ || size > self->limit_ - self->used_) {
    self->refused_ = true;
    return nullptr;
  }
  if (s->flags & COFFER_SINK_SECRET) ::mlock(self->memory_ + self->used_, size);
  self->reserved_ = size;
  return self->memory_ + self->used_;
}

coffer_status TestSink::on_commit(const coffer_sink *s, std::size_t used) noexcept {
  auto *self = static_cast<TestSink *>(s->host_data);
  if (used > self->reserved_) return COFFER_INVALID_ARGUMENT;
  // What was reserved and not used may hold the rest of a secret.
  ::explicit_bzero(self->memory_ + self->used_ + used, self->reserved_ - used);
  self->used_ += used;
  self->reserved_ = 0;
  return COFFER_OK;
}

// ---- TempDir ----

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "coffer-conformance-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder at " + pattern);
  path_ = pattern;
}
TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

// ---- OpenArgs ----

namespace {
// "5s" or "64KiB" as the plain number that the ABI carries; a plain number stays.
std::string plain_number(const std::string &text, uint16_t type) {
  static const std::map<std::string, int64_t> kDurations = {{"ns", 1},
                                                            {"us", 1000},
                                                            {"ms", 1'000'000},
                                                            {"s", 1'000'000'000},
                                                            {"m", 60'000'000'000},
                                                            {"h", 3600'000'000'000}};
  static const std::map<std::string, int64_t> kSizes = {
      {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};
  const std::size_t end = text.find_first_not_of("0123456789-");
  if (end == std::string::npos || end == 0) return text;
  const auto &units = type == COFFER_OPT_DURATION ? kDurations : kSizes;
  const auto unit = units.find(text.substr(end));
  if (unit == units.end()) return text;
  return std::to_string(std::stoll(text.substr(0, end)) * unit->second);
}
}  // namespace

OpenArgs::OpenArgs(const coffer_descriptor &d, const OptionMap &given, std::string state_dir, uint32_t flags)
    : state_dir_(std::move(state_dir)) {
  plain_.reserve(d.n_options);
  OptionMap left = given;
  for (std::size_t i = 0; i < d.n_options; ++i) {
    const coffer_option &o = *d.options[i];
    std::string value = o.default_value ? o.default_value : "";
    const auto it = left.find(o.key);
    const bool set = it != left.end();
    if (set) {
      value = it->second;
      left.erase(it);
    }
    if (!set && !o.default_value) continue;
    if (o.type == COFFER_OPT_DURATION || o.type == COFFER_OPT_BYTES) value = plain_number(value, o.type);
    plain_.emplace_back(o.key, value);
    std::string &stored = plain_.back().second;
    if (o.flags & COFFER_OPTF_SECRET) {
      void *p = TestHost::get().secure_alloc(value.size());
      std::memcpy(p, value.data(), value.size());
      secret_.emplace_back(p, value.size());
      pairs_.push_back({str(plain_.back().first), {static_cast<uint8_t *>(p), value.size()}});
      ::explicit_bzero(value.data(), value.size());
      ::explicit_bzero(stored.data(), stored.size());
    } else {
      pairs_.push_back({str(plain_.back().first), bytes(stored)});
    }
  }
  if (!left.empty()) throw std::invalid_argument("the plugin has no option '" + left.begin()->first + "'");
  raw_.struct_size = sizeof raw_;
  raw_.flags = flags;
  raw_.instance_name = str("conformance");
  raw_.options = pairs_.data();
  raw_.n_options = pairs_.size();
  raw_.state_dir = str(state_dir_);
}

OpenArgs::~OpenArgs() {
  for (const auto &[p, size] : secret_) TestHost::get().secure_free(p, size);
}

// ---- Plugin ----

Plugin &Plugin::under_test() {
  static Plugin plugin;
  return plugin;
}

void Plugin::load(const std::string &path, OptionMap options) {
  Plugin &p = under_test();
  p.path_ = fs::absolute(path).string();
  p.options_ = std::move(options);
  void *library = ::dlopen(p.path_.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    const char *why = ::dlerror();
    throw std::runtime_error(why ? why : "cannot load " + p.path_);
  }
  p.entry_ = static_cast<const coffer_plugin_entry *>(::dlsym(library, COFFER_PLUGIN_SYMBOL_NAME));
  if (!p.entry_) throw std::runtime_error(p.path_ + " exports no " COFFER_PLUGIN_SYMBOL_NAME);
  if (p.entry_->magic != COFFER_ABI_MAGIC) throw std::runtime_error(p.path_ + ": wrong magic");
  if (p.entry_->abi_major != COFFER_ABI_MAJOR)
    throw std::runtime_error(p.path_ + ": built for another ABI major");
  if (p.entry_->struct_size < sizeof(coffer_plugin_entry))
    throw std::runtime_error(p.path_ + ": the entry is smaller than ABI 1.0");
  TestCall call;
  if (const coffer_status s = p.entry_->init(TestHost::get().raw(), call); s != COFFER_OK)
    throw std::runtime_error(p.path_ + ": init answers " + status_name(s) + " " + call.message());
}

bool Plugin::offers(std::string_view id) const {
  const coffer_descriptor &d = descriptor();
  return std::any_of(d.interfaces, d.interfaces + d.n_interfaces,
                     [&](const coffer_interface_ref &i) { return id == i.id; });
}

// ---- OpenInstance ----

OpenInstance::OpenInstance(const OptionMap &options, const std::string &state_dir, uint32_t flags) {
  const OpenArgs args(Plugin::under_test().descriptor(), options, state_dir, flags);
  TestCall call;
  status_ = Plugin::under_test().entry().open(call, args.raw(), &instance_);
  message_ = call.message();
  if (status_ != COFFER_OK) instance_ = nullptr;
  if (status_ == COFFER_OK && !instance_) throw std::logic_error("open answered OK without an instance");
}

const void *OpenInstance::interface(const char *id) const {
  if (!instance_) throw std::logic_error("open failed: " + status_name(status_) + " " + message_);
  return Plugin::under_test().entry().get_interface(instance_, id);
}

void OpenInstance::close() {
  if (instance_) Plugin::under_test().entry().close(std::exchange(instance_, nullptr));
}

// ---- PluginTest ----

void PluginTest::SetUp() {
  fs::create_directory(state_dir());
  fs::permissions(state_dir(), fs::perms::owner_all);
  TestHost::get().forget();
  descriptors_ = open_descriptors();
  secure_bytes_ = TestHost::get().secure_bytes();
}

void PluginTest::TearDown() {
  EXPECT_EQ(TestHost::get().secure_bytes(), secure_bytes_) << "the plugin keeps secure memory after close";
  if (check_descriptors_) {
    EXPECT_EQ(open_descriptors(), descriptors_) << "the plugin keeps descriptors open after close";
  }
}

OptionMap PluginTest::options(const OptionMap &changes) const {
  OptionMap out = Plugin::under_test().options();
  for (const auto &[key, value] : changes) out[key] = value;
  for (auto &[key, value] : out)
    for (std::size_t at; (at = value.find("{tmp}")) != std::string::npos;)
      value.replace(at, 5, tmp().string());
  return out;
}

std::unique_ptr<OpenInstance> PluginTest::try_open(const OptionMap &changes, uint32_t flags) const {
  return std::make_unique<OpenInstance>(options(changes), state_dir(), flags);
}

std::unique_ptr<OpenInstance> PluginTest::open(const OptionMap &changes, uint32_t flags) const {
  auto instance = try_open(changes, flags);
  if (instance->status() != COFFER_OK)
    throw std::runtime_error("open answers " + status_name(instance->status()) + ": " + instance->message());
  return instance;
}

std::map<int, std::string> open_descriptors() {
  std::map<int, std::string> out;
  std::vector<int> numbers;
  for (const auto &e : fs::directory_iterator("/proc/self/fd"))
    numbers.push_back(std::stoi(e.path().filename()));
  for (const int fd : numbers) {
    std::error_code gone;  // the iterator's own
    const fs::path target = fs::read_symlink("/proc/self/fd/" + std::to_string(fd), gone);
    if (!gone) out[fd] = target.string();
  }
  return out;
}

// ---- PageEnd ----

PageEnd::PageEnd(const void *data, std::size_t size) {
  const std::size_t page = std::size_t(::sysconf(_SC_PAGESIZE));
  const std::size_t body = (size + page - 1) / page * page;
  mapped_ = body + page;
  map_ = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map_ == MAP_FAILED) throw std::bad_alloc();
  ::mprotect(static_cast<uint8_t *>(map_) + body, page, PROT_NONE);
  data_ = static_cast<uint8_t *>(map_) + body - size;
  if (size) std::memcpy(data_, data, size);
}
PageEnd::~PageEnd() { ::munmap(map_, mapped_); }

// ---- Canary ----

namespace {
constexpr uint8_t kMask = 0xa5;

// Is `masked` (xor kMask) in [data, data + size)?  Answers each place.
void find_masked(const uint8_t *data, std::size_t size, const std::vector<uint8_t> &masked,
                 const std::function<void(std::size_t)> &found) {
  const std::size_t n = masked.size();
  const int first = masked[0] ^ kMask;
  for (std::size_t at = 0; at + n <= size; ++at) {
    const void *hit = std::memchr(data + at, first, size - n + 1 - at);
    if (!hit) return;
    at = std::size_t(static_cast<const uint8_t *>(hit) - data);
    std::size_t i = 1;
    while (i < n && (data[at + i] ^ kMask) == masked[i]) ++i;
    if (i == n) found(at);
  }
}
}  // namespace

Canary::Canary(std::size_t size) : masked_(size) {
  if (::getrandom(masked_.data(), size, 0) != ssize_t(size)) throw std::runtime_error("getrandom failed");
}

void Canary::reveal(void *out) const {
  auto *to = static_cast<uint8_t *>(out);
  for (std::size_t i = 0; i < masked_.size(); ++i) to[i] = masked_[i] ^ kMask;
}

bool Canary::equals(std::string_view text) const {
  if (text.size() != masked_.size()) return false;
  for (std::size_t i = 0; i < text.size(); ++i)
    if ((uint8_t(text[i]) ^ kMask) != masked_[i]) return false;
  return true;
}

bool Canary::within(std::string_view text) const {
  bool hit = false;
  find_masked(reinterpret_cast<const uint8_t *>(text.data()), text.size(), masked_,
              [&](std::size_t) { hit = true; });
  if (hit) return true;
  std::string plain(size(), '\0'), hex, base64;
  reveal(plain.data());
  static constexpr char kHex[] = "0123456789abcdef";
  static constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (const char c : plain) hex.append({kHex[uint8_t(c) >> 4], kHex[uint8_t(c) & 15]});
  for (std::size_t i = 0; i + 3 <= plain.size(); i += 3) {
    const uint32_t v =
        uint32_t(uint8_t(plain[i])) << 16 | uint32_t(uint8_t(plain[i + 1])) << 8 | uint8_t(plain[i + 2]);
    for (int shift = 18; shift >= 0; shift -= 6) base64.push_back(kBase64[v >> shift & 63]);
  }
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return char(std::tolower(c)); });
  hit = lower.find(hex) != std::string::npos || text.find(base64) != std::string_view::npos;
  for (std::string *s : {&plain, &hex, &base64}) ::explicit_bzero(s->data(), s->size());
  return hit;
}

std::vector<std::string> Canary::copies_in_memory() const {
  // Chunks are read into a mapping with guard pages, so that it is a region of its own and can be left out.
  constexpr std::size_t kChunk = 1u << 20, kGuard = 1u << 16;
  auto *map = static_cast<uint8_t *>(
      ::mmap(nullptr, kChunk + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (map == MAP_FAILED) throw std::bad_alloc();
  uint8_t *buffer = map + kGuard;
  ::mprotect(buffer, kChunk, PROT_READ | PROT_WRITE);
  const int memory = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  if (memory < 0) throw std::runtime_error("cannot open /proc/self/mem");

  std::vector<std::string> out;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long long from = 0, to = 0;
    char access[5] = {};
    if (std::sscanf(line.c_str(), "%llx-%llx %4s", &from, &to, access) != 3 || access[1] != 'w') continue;
    if (from == reinterpret_cast<uintptr_t>(buffer)) continue;
    if (to - from > (4ull << 30)) continue;  // a sanitizer's shadow
    for (uint64_t at = from; at < to;) {
      const ssize_t got = ::pread(memory, buffer, std::min<uint64_t>(kChunk, to - at), off_t(at));
      if (got <= 0) break;
      find_masked(buffer, std::size_t(got), masked_, [&](std::size_t offset) {
        std::ostringstream where;
        where << std::hex << at + offset << " in " << line;
        out.push_back(where.str());
      });
      if (at + uint64_t(got) >= to) break;
      at += std::max<uint64_t>(uint64_t(got) - std::min<uint64_t>(uint64_t(got) - 1, size() - 1), 1);
    }
  }
  ::close(memory);
  ::explicit_bzero(buffer, kChunk);
  ::munmap(map, kChunk + 2 * kGuard);
  return out;
}

std::string Canary::leak_in_texts() const {
  if (within(TestHost::get().logs())) return "the plugin logged the value";
  if (within(TestHost::get().errors())) return "the plugin put the value into an error";
  return "";
}

std::vector<std::string> Canary::files_below(const fs::path &dir) const {
  std::vector<std::string> out;
  for (const auto &e : fs::recursive_directory_iterator(dir)) {
    if (!e.is_regular_file()) continue;
    std::ifstream in(e.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (within(text) || within(e.path().string())) out.push_back(e.path().string());
  }
  return out;
}

// ---- Child ----

Child::Child(const std::string &role, const ChildArgs &args) {
  std::vector<std::string> words = {"/proc/self/exe", Plugin::under_test().path()};
  for (const auto &[key, value] : args.options) words.push_back(key + "=" + value);
  words.push_back("--child=" + role);
  words.push_back("--child-state=" + args.state_dir);
  for (const std::string &a : args.args) words.push_back("--child-arg=" + a);
  std::vector<char *> argv;
  for (std::string &w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(fds[1], 1);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(fds[1]);
  out_ = fds[0];
  if (pid_ < 0) throw std::runtime_error("fork failed");
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_);
}

std::optional<std::string> Child::read_line() {
  for (;;) {
    if (const std::size_t end = read_.find('\n'); end != std::string::npos) {
      const std::string line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    char buffer[512];
    const ssize_t n = ::read(out_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    read_.append(buffer, std::size_t(n));
  }
}

void Child::signal(int number) { ::kill(pid_, number); }

int Child::wait() {
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void tell_parent(std::string_view line) {
  const std::string text = std::string(line) + "\n";
  if (::write(1, text.data(), text.size()) != ssize_t(text.size())) ::_exit(3);  // the parent has gone
}

// ---- main ----

int run_suite(int argc, char **argv, const char *interface_id, const ChildRoles &children) {
  testing::InitGoogleTest(&argc, argv);
  if (GTEST_FLAG_GET(list_tests) && argc < 2) return RUN_ALL_TESTS();
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s PLUGIN.so [key=value ...] [--gtest_...]\n", argv[0]);
    return 2;
  }
  OptionMap options;
  ChildArgs child;
  std::string role;
  for (int i = 2; i < argc; ++i) {
    const std::string_view pair = argv[i];
    if (pair.starts_with("--child-arg=")) {
      child.args.emplace_back(pair.substr(12));
      continue;
    }
    const std::size_t eq = pair.find('=');
    if (eq == 0 || eq == std::string_view::npos) {
      std::fprintf(stderr, "argument %d: expected key=value\n", i);
      return 2;
    }
    const std::string value(pair.substr(eq + 1));
    if (pair.starts_with("--child=")) {
      role = value;
    } else if (pair.starts_with("--child-state=")) {
      child.state_dir = value;
    } else {
      options[std::string(pair.substr(0, eq))] = value;
    }
  }
  try {
    child.options = options;
    Plugin::load(argv[1], std::move(options));
    if (!role.empty()) return children.at(role)(child);
  } catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  if (!Plugin::under_test().offers(interface_id)) {
    std::fprintf(stderr, "%s does not offer %s\n", argv[1], interface_id);
    return 2;
  }
  return RUN_ALL_TESTS();
}

}  // namespace coffer::conformance
