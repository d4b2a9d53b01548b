#include "machine_folder.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>

#include "boot_frame.h"
#include "record.h"
#include "supervisor.h"

namespace coffer::runtime_process {
using sdk::Error;

Error errno_error(coffer_status status, std::string what, int error) {
  return Error{status, what + ": " + std::generic_category().message(error), "errno", error};
}

bool wait_for(const sdk::Call &call, std::vector<Watched> &fds, int timeout_ms) {
  std::vector<pollfd> polled;
  for (const Watched &w : fds) polled.push_back({w.fd, w.events, 0});
  polled.push_back({call.cancel_fd(), POLLIN, 0});
  const int64_t until = timeout_ms < 0 ? INT64_MAX : monotonic_ms() + timeout_ms;
  for (;;) {
    if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
    const int64_t now = monotonic_ms();
    const int64_t deadline =
        call.deadline_ns() ? static_cast<int64_t>(call.deadline_ns() / 1'000'000) : INT64_MAX;
    if (now >= deadline) throw Error{COFFER_DEADLINE_EXCEEDED, "the deadline of the call is over"};
    const int64_t next = std::min(until, deadline);
    const int64_t left =
        next == INT64_MAX ? -1 : std::min<int64_t>(std::max<int64_t>(next - now, 0), 1'000'000);
    const int n = ::poll(polled.data(), polled.size(), static_cast<int>(left));
    if (n < 0 && errno != EINTR) throw errno_error(COFFER_INTERNAL, "waiting", errno);
    bool ready = false;
    for (size_t i = 0; n > 0 && i < fds.size(); ++i) {
      fds[i].revents = polled[i].revents;
      ready |= polled[i].revents != 0;
    }
    if (ready) return true;
    if (n > 0 && polled.back().revents) throw Error{COFFER_CANCELLED, "cancelled"};
    if (monotonic_ms() >= until) return false;
  }
}

bool wait_for(const sdk::Call &call, int fd, int timeout_ms) {
  std::vector<Watched> one = {{fd, POLLIN}};
  return wait_for(call, one, timeout_ms);
}

// ---- spec ----
std::string Spec::encode() const {
  std::string out = SPEC_MAGIC;
  out += '\0';
  const auto put = [&](std::string_view key, std::string_view value) {
    out.append(key).append("=").append(value) += '\0';
  };
  put("instance_id", instance_id);
  put("name", name);
  put("image", image);
  put("user", user);
  put("created", std::to_string(created_ns));
  for (const auto &[key, value] : labels) put("label", key + "=" + value);
  for (const std::string &v : places.variables) put("variable", v);
  for (const std::string &f : places.files) put("file", f);
  for (const std::string &f : places.folders) put("folder", f);
  if (!workdir.empty()) put("workdir", workdir);
  if (own_user) {
    put("uid", std::to_string(uid));
    put("gid", std::to_string(gid));
    for (const unsigned g : groups) put("group", std::to_string(g));
  }
  if (!home.empty()) put("home", "HOME=" + home);
  if (stop_signal) put("stop_signal", std::to_string(stop_signal));
  if (stop_timeout_ns) put("stop_timeout_ns", std::to_string(stop_timeout_ns));
  for (const std::string &e : env) put("env", e);
  for (const std::string &a : argv) put("argv", a);
  return out;
}

namespace {
template <class Number>
bool parse_number(std::string_view text, Number &out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}
}  // namespace

std::optional<Spec> Spec::decode(std::string_view text) {
  if (text.empty() || text.back() != '\0' || text.substr(0, text.find('\0')) != SPEC_MAGIC) return {};
  Spec s;
  text.remove_prefix(sizeof SPEC_MAGIC);
  while (!text.empty()) {
    const std::string_view field = text.substr(0, text.find('\0'));
    text.remove_prefix(field.size() + 1);
    const size_t equals = field.find('=');
    if (equals == std::string_view::npos) return {};
    const std::string_view key = field.substr(0, equals);
    const std::string value(field.substr(equals + 1));
    bool good = true;
    if (key == "instance_id")
      s.instance_id = value;
    else if (key == "name")
      s.name = value;
    else if (key == "image")
      s.image = value;
    else if (key == "user")
      s.user = value;
    else if (key == "created")
      good = parse_number(value, s.created_ns);
    else if (key == "variable")
      s.places.variables.push_back(value);
    else if (key == "file")
      s.places.files.push_back(value);
    else if (key == "folder")
      s.places.folders.push_back(value);
    else if (key == "workdir")
      s.workdir = value;
    else if (key == "uid")
      good = s.own_user = parse_number(value, s.uid);
    else if (key == "gid")
      good = parse_number(value, s.gid);
    else if (key == "group")
      good = parse_number(value, s.groups.emplace_back());
    else if (key == "home")
      s.home = value.substr(value.find('=') + 1);
    else if (key == "stop_signal")
      good = parse_number(value, s.stop_signal);
    else if (key == "stop_timeout_ns")
      good = parse_number(value, s.stop_timeout_ns);
    else if (key == "env")
      s.env.push_back(value);
    else if (key == "argv")
      s.argv.push_back(value);
    else if (key == "label" && value.find('=') != std::string::npos)
      s.labels.emplace_back(value.substr(0, value.find('=')), value.substr(value.find('=') + 1));
    else
      good = false;
    if (!good) return {};
  }
  if (s.instance_id.empty() || s.argv.empty()) return {};
  return s;
}

// ---- identity ----
Fd ProcessId::open() const {
  if (pid <= 0) return Fd();
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  // Opened first: if the start time is right now, the descriptor cannot mean a later process.
  return fd && process_start(pid) == start ? std::move(fd) : Fd();
}

std::string Handle::encode() const {
  std::string out = "coffer-process 1 " + instance_id;
  if (!boot_id.empty())
    out += " " + boot_id + " " + std::to_string(app.pid) + " " + std::to_string(app.start);
  return out;
}

std::optional<Handle> Handle::decode(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if ((words.size() != 3 && words.size() != 6) || words[0] != "coffer-process" || words[1] != "1") return {};
  Handle h;
  h.instance_id = words[2];
  if (words.size() == 6) {
    h.boot_id = words[3];
    if (h.boot_id.empty() || !parse_number(words[4], h.app.pid) || !parse_number(words[5], h.app.start))
      return {};
  }
  return h;
}

// ---- folder ----
Spec MachineFolder::spec() const {
  Fd file(::openat(fd(), "spec", O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::string text;
  char buffer[65536];
  ssize_t n = 0;
  while (file && (n = ::read(file.get(), buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(n));
  std::optional<Spec> spec = file && n == 0 ? Spec::decode(text) : std::nullopt;
  if (!spec || spec->instance_id != instance_id_)
    throw Error{COFFER_DATA_LOSS,
                "the spec of instance " + instance_id_ + " is missing or damaged; destroy it"};
  return *spec;
}

bool MachineFolder::alive() const {
  Fd file(::openat(fd(), "alive", O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return file && ::fcntl(file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

std::optional<Fd> MachineFolder::take_alive() const {
  Fd file(::openat(fd(), "alive", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (!file || ::fcntl(file.get(), F_OFD_SETLK, &lock) != 0) return {};
  return file;
}

std::optional<Fd> MachineFolder::lock(const sdk::Call &call) const {
  Fd file(::openat(fd(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    if (errno == ENOENT) return {};  // the folder was removed
    throw errno_error(COFFER_UNAVAILABLE, "the lock of instance " + instance_id_, errno);
  }
  // A lock cannot be waited for together with cancellation; who holds it holds it for a moment.
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      throw errno_error(COFFER_UNAVAILABLE, "the lock of instance " + instance_id_, errno);
    wait_for(call, -1, 10);
  }
  struct stat here, there;
  if (::fstat(fd(), &here) != 0 ||
      ::fstatat(state_dir_, instance_id_.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0 ||
      here.st_ino != there.st_ino)
    return {};
  return file;
}

void MachineFolder::write(const char *name, const std::string &text) const {
  if (const int error = write_text_at(fd(), name, text.c_str()))
    throw errno_error(error == ENOSPC ? COFFER_RESOURCE_EXHAUSTED : COFFER_UNAVAILABLE,
                      std::string("cannot write '") + name + "' of instance " + instance_id_, error);
}

MachineState MachineFolder::state(const Spec &spec) const {
  MachineState s;
  char text[1024], boot[64] = "";
  boot_id(boot);
  // Order matters: the supervisor writes `exit` before it lets go of `alive`.
  const bool living = alive();
  if (read_text_at(fd(), "run", text, sizeof text) > 0) {
    if (const char *id = std::strstr(text, "boot_id ")) s.boot_id.assign(id + 8, std::strcspn(id + 8, "\n"));
    record_process(text, "supervisor", &s.supervisor.pid, &s.supervisor.start);
    record_process(text, "app", &s.app.pid, &s.app.start);
    s.started_ns = record_number(text, "started", 0);
    s.this_boot = s.boot_id == boot;
  }
  if (read_text_at(fd(), "exit", text, sizeof text) > 0) {
    s.exit_code = static_cast<int>(record_number(text, "code", 125));
    s.exit_signal = static_cast<int>(record_number(text, "signal", 0));
    s.finished_ns = record_number(text, "finished", 0);
    s.step = static_cast<uint32_t>(record_number(text, "step", 0));
    s.step_code = static_cast<int>(record_number(text, "step_code", 0));
    s.index = static_cast<uint32_t>(record_number(text, "index", 0));
    const bool by_order = record_number(text, "by_order", 0) != 0;
    s.state = s.step == STEP_OK && (by_order || s.exit_code == 0) ? COFFER_M_STOPPED : COFFER_M_FAILED;
    if (s.step != STEP_OK) s.message = step_sentence(spec, s.step, s.step_code, s.index);
    return s;
  }
  struct stat st;
  if (living) {
    s.state = ::fstatat(fd(), "stop", &st, 0) == 0 ? COFFER_M_STOPPING
              : s.started_ns                       ? COFFER_M_STARTED
                                                   : COFFER_M_STARTING;
  } else if (s.boot_id.empty()) {
    s.state = ::fstatat(fd(), "spec", &st, 0) == 0 ? COFFER_M_CREATED : COFFER_M_GONE;
  } else {
    s.state = COFFER_M_FAILED;
    s.message = s.this_boot ? "the supervisor of the Machine was killed" : "the host was restarted";
  }
  return s;
}

// ---- sentences ----
std::string step_sentence(const Spec &spec, uint32_t step, int code, uint32_t index) {
  const std::string why = std::generic_category().message(code);
  std::vector<std::string> files = spec.places.files;  // in the order of the frame
  std::sort(files.begin(), files.end());
  const std::string command = spec.argv.empty() ? "" : spec.argv.front();
  const std::string file = index < files.size() ? files[index] : "?";
  switch (step) {
    case STEP_SETUP:
      return "the Machine cannot be set up: " + why;
    case STEP_SPEC:
      return "the stored spec of the Machine is damaged; destroy it";
    case STEP_RECORD:
      return "the state folder of the Machine cannot be written: " + why;
    case STEP_FRAME:
      return coffer_boot_error_text(static_cast<coffer_boot_error>(code));
    case STEP_NAMESPACE:
      return "file secrets need a mount namespace and none can be made here (" + why +
             "): allow user namespaces, run as root, or give the secrets as environment";
    case STEP_TMPFS:
      return code == 0 ? "file secrets need a tmpfs and what was mounted is none"
                       : "file secrets need a tmpfs and none can be mounted here (" + why + ")";
    case STEP_MOUNTPOINT:
      return "the place for the file " + file + " cannot be made (" + why +
             "): create an empty file there, or choose a path that the Machine may write";
    case STEP_NOT_A_FILE:
      return "the path " + file + " is taken by something that is no regular file: choose another path";
    case STEP_FILE:
      return "the file " + file + " cannot be delivered (" + why + ")" +
             (::geteuid() != 0 && (code == EPERM || code == EINVAL)
                  ? ": without root it can only belong to the Machine's own user"
                  : "");
    case STEP_USER:
      return "the user '" + spec.user + "' cannot be taken: " + why;
    case STEP_WORKDIR:
      return "the working directory '" + (spec.workdir.empty() ? "/" : spec.workdir) +
             "' cannot be entered: " + why;
    case STEP_EXEC:
      if (code == ENOENT || code == ENOTDIR) return "command not found: " + command;
      if (code == E2BIG)
        return "the arguments and environment are too long for the kernel: mount large secrets as files";
      return "the command '" + command + "' cannot be executed: " + why;
    case STEP_DIED:
      return "the Machine ended before the app ran";
    case STEP_ENTER:
      return "the Machine cannot be entered: " + why;
    case STEP_ENVIRON:
      return "the environment of the app cannot be read: " + why;
    default:
      return "the Machine failed";
  }
}

}  // namespace coffer::runtime_process
