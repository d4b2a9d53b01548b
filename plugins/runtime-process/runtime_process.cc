// runtime-process: Machines as processes of this host, each beside a small supervisor that outlives us.
// The files of a Machine are described in supervisor.h, the way of a value in README.md.
#include <coffer/runtime.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <deque>
#include <filesystem>

#include "boot_frame.h"
#include "deliveries.h"
#include "launch.h"
#include "log_reader.h"
#include "machine_folder.h"
#include "probe.h"
#include "record.h"

namespace coffer::runtime_process {
namespace {
using runtime::instance_id_ok;
using runtime::text;
using sdk::Call;
using sdk::Error;
using sdk::view;

constexpr uint64_t kDefaultStopNs = 10'000'000'000;

Error invalid(std::string message) { return Error{COFFER_INVALID_ARGUMENT, std::move(message)}; }

// ---- checks of a machine spec ----
void read_command(const coffer_machine_spec &in, Spec &out) {
  std::vector<std::string> words;
  for (size_t i = 0; i < in.n_entrypoint; ++i) words.push_back(text(in.entrypoint[i], "the entrypoint"));
  if (out.image == "host") {
    // nothing in front
  } else if (out.image.starts_with('/')) {
    if (!words.empty())
      throw invalid(
          "an entrypoint cannot be combined with an executable as image: take image 'host' and name the "
          "whole command");
    struct stat st;
    if (::stat(out.image.c_str(), &st) != 0)
      throw errno_error(COFFER_INVALID_ARGUMENT, "image " + out.image + " cannot be found", errno);
    if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
      throw invalid("image " + out.image + " is no executable file");
    words.push_back(out.image);
  } else {
    throw invalid("image '" + out.image +
                  "' is not known to runtime-process: take 'host' and a command, or the "
                  "absolute path of an executable");
  }
  for (size_t i = 0; i < in.n_argv; ++i) words.push_back(text(in.argv[i], "the command"));
  if (words.empty() || words.front().empty())
    throw invalid("image 'host' needs a command: name it behind '--'");
  out.argv = std::move(words);
}

template <class Number>
bool whole_number(std::string_view s, Number &out) {
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
  return !s.empty() && error == std::errc() && end == s.data() + s.size();
}

// user = uid | name, then optionally ":" and gid | group; of this host.
void read_user(Spec &out) {
  std::vector<char> buffer(65536);
  passwd entry, *found = nullptr;
  if (out.user.empty()) {
    ::getpwuid_r(::geteuid(), &entry, buffer.data(), buffer.size(), &found);
    out.home = found ? found->pw_dir : "/";
    return;
  }
  const size_t colon = out.user.find(':');
  const std::string name = out.user.substr(0, colon);
  const std::string group = colon == std::string::npos ? "" : out.user.substr(colon + 1);
  unsigned number = 0;
  const bool numeric = whole_number(name, number);
  if (numeric)
    ::getpwuid_r(number, &entry, buffer.data(), buffer.size(), &found);
  else
    ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (!found && !numeric) throw invalid("user '" + name + "' does not exist on this host");
  out.uid = found ? found->pw_uid : number;
  out.home = found ? found->pw_dir : "/";
  if (!group.empty()) {
    std::vector<char> group_buffer(65536);
    struct group group_entry, *group_found = nullptr;
    if (!whole_number(group, out.gid)) {
      ::getgrnam_r(group.c_str(), &group_entry, group_buffer.data(), group_buffer.size(), &group_found);
      if (!group_found) throw invalid("group '" + group + "' does not exist on this host");
      out.gid = group_found->gr_gid;
    }
  } else if (found) {
    out.gid = found->pw_gid;
  } else {
    throw invalid("user " + name + " has no entry on this host: give the group too, as UID:GID");
  }
  if (out.uid == static_cast<unsigned>(-1) || out.gid == static_cast<unsigned>(-1))
    throw invalid("user '" + out.user + "' is not valid");
  if (::geteuid() != 0) {
    if (out.uid != ::geteuid() || out.gid != ::getegid())
      throw Error{COFFER_PERMISSION_DENIED,
                  "without root a Machine can only run as the calling user, not as '" + out.user + "'"};
    return;
  }
  out.own_user = true;
  out.groups = {out.gid};
  if (found) {
    std::vector<gid_t> groups(256);
    int n = static_cast<int>(groups.size());
    if (::getgrouplist(found->pw_name, out.gid, groups.data(), &n) < 0) {
      groups.resize(static_cast<size_t>(n));
      ::getgrouplist(found->pw_name, out.gid, groups.data(), &n);
    }
    out.groups.assign(groups.begin(), groups.begin() + n);
  }
}

// What only this host can say about the files; the boot looks again, here a refusal costs nothing yet.
void check_files(const coffer_machine_spec &in) {
  for (size_t i = 0; i < in.n_deliveries; ++i) {
    const coffer_delivery &d = *in.deliveries[i];
    if (d.via != COFFER_VIA_TMPFS) continue;
    const std::string name(view(d.name));
    if ((d.flags & COFFER_DLV_OWNER) && ::geteuid() != 0 && (d.uid != ::geteuid() || d.gid != ::getegid()))
      throw Error{COFFER_PERMISSION_DENIED,
                  "without root the file " + name + " can only belong to the Machine's own user"};
    struct stat st;
    if (d.flags & COFFER_DLV_FOLDER) {
      const std::string folder = runtime::folder_of(name);
      if (::lstat(folder.c_str(), &st) == 0 && !S_ISDIR(st.st_mode))
        throw Error{COFFER_FAILED_PRECONDITION,
                    "the path " + folder + " is taken by something that is no folder: choose another path"};
      continue;
    }
    if (::lstat(name.c_str(), &st) == 0 && !S_ISREG(st.st_mode))
      throw Error{COFFER_FAILED_PRECONDITION,
                  step_sentence({.places = {.files = {name}}}, STEP_NOT_A_FILE, 0, 0)};
  }
}

int signal_number(std::string_view name) {
  static constexpr std::pair<std::string_view, int> kSignals[] = {
      {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"ABRT", SIGABRT},   {"KILL", SIGKILL},
      {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"TERM", SIGTERM}, {"WINCH", SIGWINCH}, {"ALRM", SIGALRM},
      {"PIPE", SIGPIPE}, {"IO", SIGIO},     {"PWR", SIGPWR}};
  int number = 0;
  if (whole_number(name, number) && number > 0 && number < NSIG) return number;
  std::string_view bare = name;
  if (bare.starts_with("SIG")) bare.remove_prefix(3);
  for (const auto &[known, value] : kSignals)
    if (known == bare) return value;
  throw invalid("signal '" + std::string(name) + "' is not known");
}

// A Machine here is a process of the host, with the host's network, files and limits.
void refuse_what_containers_have(const coffer_machine_spec &in) {
  const auto refuse = [](bool asked, std::string_view why, std::string_view option) {
    if (asked) throw invalid("runtime-process " + std::string(why) + ": leave out " + std::string(option));
  };
  refuse(in.n_ports, "has no network of its own", "--publish");
  refuse(in.network.size, "has no network of its own", "--network");
  refuse(in.n_mounts, "shows the host's own files", "--volume and [[mounts]]");
  refuse(in.flags & COFFER_SPEC_READ_ONLY, "has no root file system of its own", "--read-only");
  refuse(in.n_cap_drop, "drops no capabilities", "--cap-drop");
  refuse(in.memory_bytes, "limits no memory", "--memory and [[vm]]");
}

Spec read_spec(const coffer_machine_spec &in) {
  Spec out;
  out.instance_id = view(in.instance_id);
  if (!instance_id_ok(out.instance_id)) throw invalid("the instance id is not valid");
  out.name = text(in.name, "the name");
  out.image = text(in.image, "the image");
  out.user = text(in.user, "the user");
  out.workdir = text(in.workdir, "the working directory");
  if (!out.workdir.empty() && out.workdir[0] != '/')
    throw invalid("the working directory '" + out.workdir + "' is not absolute");
  refuse_what_containers_have(in);
  read_command(in, out);
  if (const std::string_view signal = view(in.stop_signal); !signal.empty())
    out.stop_signal = signal_number(signal);
  out.stop_timeout_ns = in.stop_timeout_ns;
  out.env = runtime::plain_env(in);
  out.labels = runtime::labels(in);
  read_user(out);
  out.places = runtime::check_deliveries(in);
  check_files(in);
  out.created_ns = wall_ns();
  return out;
}

// Ends what a killed supervisor may have left: the app asked the kernel to die with it, but can undo that.
void kill_leftover(const MachineState &s) {
  if (!s.this_boot) return;
  const Fd app = s.app.open();
  if (!app) return;
  ::syscall(SYS_pidfd_send_signal, app.get(), SIGKILL, nullptr, 0);
  pollfd gone = {app.get(), POLLIN, 0};
  ::poll(&gone, 1, 5000);
}

class RuntimeProcess final : public sdk::Runtime<COFFER_VIA_ENV | COFFER_VIA_TMPFS, 0> {
 public:
  static std::unique_ptr<Instance> open(const Call &, const sdk::Options &options) {
    const std::string path(options.state_dir());
    if (path.empty() || path[0] != '/')
      throw invalid("runtime-process needs a state folder with an absolute path");
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
      throw errno_error(COFFER_UNAVAILABLE, "state folder " + path, errno);
    Fd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat st;
    if (!folder || ::fstat(folder.get(), &st) != 0)
      throw errno_error(COFFER_UNAVAILABLE, "state folder " + path, errno);
    if (st.st_uid != ::geteuid() || (st.st_mode & 077))
      throw Error{COFFER_FAILED_PRECONDITION,
                  "state folder " + path + " must belong to the calling user and be 0700"};
    return std::make_unique<RuntimeProcess>(std::move(folder), std::string(options.get("supervisor")));
  }

  RuntimeProcess(Fd state_dir, std::string supervisor)
      : state_dir_(std::move(state_dir)), supervisor_(std::move(supervisor)) {}

  std::string probe(const Call &) override {
    const bool files = reap(launch({.supervisor = supervisor_, .arguments = {"probe"}})) == 0;
    return files ? R"({"vias":["env","tmpfs"]})" : R"({"vias":["env"]})";
  }

  void create(const Call &call, const coffer_machine_spec &in, const sdk::Machines &emit) override {
    const Spec spec = read_spec(sdk::whole(in));
    if (const std::optional<MachineFolder> existing = find(spec.instance_id)) {
      Spec before = existing->spec();
      const int64_t created = std::exchange(before.created_ns, spec.created_ns);
      if (before.encode() != spec.encode())
        throw Error{COFFER_ALREADY_EXISTS,
                    "instance " + spec.instance_id + " exists with another configuration"};
      before.created_ns = created;
      answer(emit, before, existing->state(before), false);
      return;
    }
    const Fd turn = lock_state_dir(call);
    // Built aside and renamed: the folder exists whole or not at all.
    const std::string temporary = ".new-" + spec.instance_id;
    if (::mkdirat(state_dir_.get(), temporary.c_str(), 0700) != 0)
      throw errno_error(COFFER_UNAVAILABLE, "cannot create the folder of instance " + spec.instance_id,
                        errno);
    const MachineFolder fresh(state_dir_.get(), temporary, open_folder(temporary));
    const std::string encoded = spec.encode();
    {
      Fd file(::openat(fresh.fd(), "spec", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
      size_t done = 0;
      while (file && done < encoded.size()) {
        const ssize_t n = ::write(file.get(), encoded.data() + done, encoded.size() - done);
        if (n <= 0) break;
        done += static_cast<size_t>(n);
      }
      if (!file || done < encoded.size() || ::fsync(file.get()) != 0)
        throw errno_error(COFFER_UNAVAILABLE, "cannot write the spec of instance " + spec.instance_id, errno);
    }
    for (const char *name : {"lock", "alive"})
      Fd(::openat(fresh.fd(), name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (::fsync(fresh.fd()) != 0 ||
        ::syscall(SYS_renameat2, state_dir_.get(), temporary.c_str(), state_dir_.get(),
                  spec.instance_id.c_str(), RENAME_NOREPLACE) != 0 ||
        ::fsync(state_dir_.get()) != 0) {
      if (errno == EEXIST)
        throw Error{COFFER_ABORTED, "instance " + spec.instance_id + " was just created elsewhere"};
      throw errno_error(COFFER_UNAVAILABLE, "cannot store instance " + spec.instance_id, errno);
    }
    MachineState s;
    s.state = COFFER_M_CREATED;
    answer(emit, spec, s, false);
  }

  void start(const Call &call, std::string_view handle, const coffer_delivery *const *deliveries,
             size_t n) override {
    const std::optional<MachineFolder> folder = find(decode(handle));
    const std::optional<Fd> turn = folder ? folder->lock(call) : std::nullopt;
    if (!turn) throw Error{COFFER_NOT_FOUND, "the instance is gone: create it anew"};
    const Spec spec = folder->spec();
    if (const MachineState s = folder->state(spec); s.state != COFFER_M_CREATED)
      throw Error{COFFER_FAILED_PRECONDITION,
                  "instance " + spec.instance_id +
                      " was started before: an instance is started once, create a new one"};
    const sdk::SecureBuffer frame = runtime::build_frame(spec.instance_id, spec.places, deliveries, n);

    std::optional<Fd> alive = folder->take_alive();
    if (!alive) throw Error{COFFER_ABORTED, "instance " + spec.instance_id + " is being started elsewhere"};
    auto [frame_out, frame_in] = byte_pair();
    auto [status, status_in] = message_pair();
    reap(launch({.supervisor = supervisor_,
                 .arguments = {"run", spec.instance_id},
                 .in = frame_in.get(),
                 .folder = folder->fd(),
                 .alive = alive->get(),
                 .status = status_in.get()}));
    frame_in.close();
    status_in.close();
    alive->close();  // the supervisor has the lock now

    const supervisor_message m = hand_over(call, spec, frame, frame_out, status);
    if (m.step != STEP_OK)
      throw Error{COFFER_FAILED_PRECONDITION, step_sentence(spec, m.step, m.code, m.index),
                  m.step == STEP_FRAME ? "boot_frame" : "errno", m.code};
  }

  void stop(const Call &call, std::string_view handle, std::string_view signal,
            uint64_t timeout_ns) override {
    const int number = signal.empty() ? 0 : signal_number(signal);
    if (const std::optional<MachineFolder> folder = find(decode(handle)))
      stop_folder(call, *folder, number, timeout_ns);
  }

  void update(const Call &call, std::string_view handle, const coffer_delivery *const *deliveries, size_t n,
              std::string_view signal) override {
    const int number = signal.empty() ? 0 : signal_number(signal);
    const std::optional<MachineFolder> folder = find(decode(handle));
    const std::optional<Fd> turn = folder ? folder->lock(call) : std::nullopt;
    if (!turn) throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    Spec spec = folder->spec();
    const MachineState s = folder->state(spec);
    if (s.state != COFFER_M_STARTED) throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
    runtime::check_update(spec.places, deliveries, n);
    runtime::Places given;
    for (size_t i = 0; i < n; ++i) given.files.emplace_back(view(deliveries[i]->name));
    const sdk::SecureBuffer frame = runtime::build_frame(spec.instance_id, given, deliveries, n);
    auto [frame_out, frame_in] = byte_pair();
    auto [status, status_in] = message_pair();
    const int pid = launch({.supervisor = supervisor_,
                            .arguments = {"update", spec.instance_id},
                            .in = frame_in.get(),
                            .folder = folder->fd(),
                            .status = status_in.get()});
    frame_in.close();
    status_in.close();
    const Reaper reaper{pid, frame_out};
    const supervisor_message m = hand_over(call, spec, frame, frame_out, status);
    spec.places = given;  // what its numbers are about
    if (m.step != STEP_OK)
      throw Error{COFFER_UNAVAILABLE, step_sentence(spec, m.step, m.code, m.index), "errno", m.code};
    const Fd app = number ? s.app.open() : Fd();
    if (number && (!app || ::syscall(SYS_pidfd_send_signal, app.get(), number, nullptr, 0) != 0))
      throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
  }

  void destroy(const Call &call, std::string_view handle, bool force) override {
    const std::optional<Handle> wanted = decode(handle);
    for (;;) {
      const std::optional<MachineFolder> folder = find(wanted);
      if (!folder) return;
      stop_folder(call, *folder, force ? SIGKILL : 0, 0);
      const std::optional<Fd> turn = folder->lock(call);
      if (!turn) continue;
      Spec unknown;
      if (!folder->state(unknown).ended() && folder->alive()) continue;  // started meanwhile
      const std::string gone = ".gone-" + wanted->instance_id;
      const Fd state_turn = lock_state_dir(call);
      if (::renameat(state_dir_.get(), wanted->instance_id.c_str(), state_dir_.get(), gone.c_str()) != 0 &&
          errno != ENOENT)
        throw errno_error(COFFER_UNAVAILABLE, "cannot remove instance " + wanted->instance_id, errno);
      ::fsync(state_dir_.get());
      remove_leftovers();
      return;
    }
  }

  void inspect(const Call &, std::string_view handle, const sdk::Machines &emit) override {
    const std::optional<Handle> wanted = decode(handle);
    if (const std::optional<MachineFolder> folder = find(wanted)) {
      try {
        const Spec spec = folder->spec();
        answer(emit, spec, folder->state(spec), true);
        return;
      } catch (const Error &) {
        if (find(wanted)) throw;  // damaged, not just destroyed
      }
    }
    answer_gone(emit, wanted->instance_id);
  }

  void list(const Call &call, const coffer_pair *labels, size_t n, const sdk::Machines &emit) override {
    for (const std::string &id : instance_ids()) {
      if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      const std::optional<MachineFolder> folder = find(id);
      if (!folder) continue;
      Spec spec;
      try {
        spec = folder->spec();
      } catch (const Error &e) {
        if (n > 0 || !find(id)) continue;
        spec.instance_id = id;
        MachineState damaged;
        damaged.state = COFFER_M_UNKNOWN;
        damaged.message = e.message;
        if (!answer(emit, spec, damaged, true)) return;
        continue;
      }
      const bool match = std::all_of(labels, labels + n, [&](const coffer_pair &l) {
        return std::any_of(spec.labels.begin(), spec.labels.end(), [&](const auto &own) {
          return own.first == view(l.key) && own.second == view(l.value);
        });
      });
      if (match && !answer(emit, spec, folder->state(spec), true)) return;
    }
  }

  void wait(const Call &call, std::string_view handle, const sdk::Machines &emit) override {
    const std::optional<Handle> wanted = decode(handle);
    const std::optional<MachineFolder> folder = find(wanted);
    if (!folder) return void(answer_gone(emit, wanted->instance_id));
    const Spec spec = folder->spec();
    const Fd changes = watch(*folder, IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_MOVE_SELF);
    const MachineState before = folder->state(spec);
    MachineState now = before;
    while (now.state == before.state && !now.ended()) {
      const Fd supervisor = now.this_boot ? now.supervisor.open() : Fd();
      std::vector<Watched> fds = {{changes.get(), POLLIN}, {supervisor.get(), POLLIN}};
      // Without a record of the supervisor its end cannot be seen; that lasts for a moment of the start.
      wait_for(call, fds, now.state != COFFER_M_CREATED && !supervisor ? 20 : -1);
      drain(changes);
      now = folder->state(spec);
    }
    answer(emit, spec, now, true);
  }

  void logs(const Call &call, std::string_view handle, const coffer_log_query &query,
            const sdk::Chunks &emit) override {
    const std::optional<MachineFolder> folder = find(decode(handle));
    if (!folder) throw Error{COFFER_NOT_FOUND, "the instance is gone and its log with it"};
    const Spec spec = folder->spec();
    const bool follow = query.flags & 1u;
    const uint32_t streams = (query.flags >> 1) & 3u ? (query.flags >> 1) & 3u : 3u;
    const Fd changes = follow ? watch(*folder, IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE) : Fd();
    LogReader reader(folder->fd());

    struct Line {
      uint32_t stream;
      int64_t time_ns;
      std::string data;
    };
    std::deque<Line> kept;  // only with `tail`
    uint64_t complete = 0;
    const auto wanted = [&](uint32_t stream, int64_t time_ns) {
      return (streams & (1u << (stream - 1))) && time_ns >= query.since_ns;
    };
    const auto is_whole = [](const Line &l) { return l.data.ends_with('\n'); };
    const LogReader::Emit direct = [&](uint32_t stream, int64_t time_ns, std::string_view data) {
      return !wanted(stream, time_ns) || emit(stream, time_ns, data);
    };
    const LogReader::Emit keep = [&](uint32_t stream, int64_t time_ns, std::string_view data) {
      if (!wanted(stream, time_ns)) return true;
      kept.push_back({stream, time_ns, std::string(data)});
      complete += is_whole(kept.back());
      while (complete + !is_whole(kept.back()) > query.tail) {
        complete -= is_whole(kept.front());
        kept.pop_front();
      }
      return true;
    };
    // The state first: what was written before the end is then surely read.
    MachineState s = folder->state(spec);
    if (!reader.read(query.tail ? keep : direct)) return;
    for (const Line &l : kept)
      if (!emit(l.stream, l.time_ns, l.data)) return;
    while (follow && !s.ended()) {
      const Fd supervisor = s.this_boot ? s.supervisor.open() : Fd();
      std::vector<Watched> fds = {{changes.get(), POLLIN}, {supervisor.get(), POLLIN}};
      wait_for(call, fds, s.state != COFFER_M_CREATED && !supervisor ? 20 : -1);
      drain(changes);
      s = folder->state(spec);
      if (!reader.read(direct)) return;
    }
  }

  int32_t exec(const Call &call, std::string_view handle, const coffer_exec_spec &in,
               const coffer_exec_io &io) override {
    const std::optional<MachineFolder> folder = find(decode(handle));
    if (!folder) throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    Spec spec = folder->spec();
    if (const MachineState s = folder->state(spec); s.state != COFFER_M_STARTED)
      throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
    if (io.flags & 1u) throw Error{COFFER_UNIMPLEMENTED, "runtime-process offers no terminal"};
    if (const std::string user = text(in.user, "the user"); !user.empty() && user != spec.user)
      throw invalid("a command in a Machine of runtime-process runs as the Machine's own user");
    std::vector<std::string> arguments = {"exec", spec.instance_id, text(in.workdir, "the working directory"),
                                          "--"};
    for (size_t i = 0; i < in.n_argv; ++i) arguments.push_back(text(in.argv[i], "the command"));
    if (in.n_argv == 0 || arguments[4].empty()) throw invalid("exec needs a command");
    spec.argv = {arguments[4]};  // the sentences below are about this command
    spec.workdir = arguments[2];

    const bool has_input = io.struct_size > offsetof(coffer_exec_io, in_fd) && io.in && io.in_fd >= 0;
    auto [in_read, in_write] = pipe_pair();
    auto [out_read, out_write] = pipe_pair();
    auto [err_read, err_write] = pipe_pair();
    auto [status, status_in] = message_pair();
    const int pid = launch({.supervisor = supervisor_,
                            .arguments = arguments,
                            .in = has_input ? in_read.get() : -1,
                            .out = out_write.get(),
                            .err = err_write.get(),
                            .folder = folder->fd(),
                            .status = status_in.get()});
    // However this ends: without a reader of its status the supervisor kills the command and goes.
    const Reaper reaper{pid, status};
    in_read.close();
    out_write.close();
    err_write.close();
    status_in.close();
    ::fcntl(in_write.get(), F_SETFL, O_NONBLOCK);
    if (!has_input) in_write.close();

    char input[4096], output[65536];
    size_t input_at = 0, input_size = 0;
    std::optional<supervisor_message> result;
    const auto pump = [&](Fd &fd, uint32_t stream) {
      const ssize_t n = ::read(fd.get(), output, sizeof output);
      if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) fd.close();
      if (n > 0 && io.out &&
          io.out(io.ctx, stream, wall_ns(), {reinterpret_cast<uint8_t *>(output), size_t(n)}) != 0)
        throw Error{COFFER_CANCELLED, "the output was refused"};
    };
    while (out_read || err_read || !result) {
      const bool holding = input_at < input_size;
      std::vector<Watched> fds = {{result ? -1 : status.get(), POLLIN},
                                  {out_read.get(), POLLIN},
                                  {err_read.get(), POLLIN},
                                  {in_write && !holding ? io.in_fd : -1, POLLIN},
                                  {in_write.get(), static_cast<short>(holding ? POLLOUT : 0)}};
      wait_for(call, fds, -1);
      if (fds[1].revents) pump(out_read, 1);
      if (fds[2].revents) pump(err_read, 2);
      if (fds[4].revents & POLLERR) {
        in_write.close();  // the command reads no more
      } else if (holding && fds[4].revents) {
        const sdk::NoSigpipe quiet;
        const ssize_t n = ::write(in_write.get(), input + input_at, input_size - input_at);
        if (n > 0) input_at += static_cast<size_t>(n);
        if (n < 0 && errno != EAGAIN && errno != EINTR) in_write.close();
      } else if (fds[3].revents) {
        const int64_t n = io.in(io.ctx, input, sizeof input);
        if (n < 0) throw Error{COFFER_CANCELLED, "cancelled"};
        input_at = 0;
        input_size = static_cast<size_t>(n);
        if (n == 0) in_write.close();
      }
      if (fds[0].revents) {
        supervisor_message m{};
        if (!receive(status.get(), m)) m = {STEP_DIED, 0, 0};
        if (m.step != STEP_RUNNING) {
          result = m;
          in_write.close();
        }
      }
    }
    sdk::Host::cleanse(input, sizeof input);
    sdk::Host::cleanse(output, sizeof output);
    if (result->step == STEP_OK) return result->code;
    if (result->step == STEP_DIED) throw Error{COFFER_UNAVAILABLE, "the command was ended with its Machine"};
    const std::string sentence = "exec: " + step_sentence(spec, result->step, result->code, 0) + "\n";
    const int32_t code =
        result->step == STEP_EXEC && (result->code == ENOENT || result->code == ENOTDIR) ? 127 : 126;
    if (io.out) io.out(io.ctx, 2, wall_ns(), sdk::to_bytes(sentence));
    return code;
  }

  // A Machine has the host's network, so nobody needs to enter it.
  void try_check(const Call &call, std::string_view handle, const coffer_probe_spec &in) override {
    const runtime::Probe wanted = runtime::read_probe(in);
    const std::optional<MachineFolder> folder = find(decode(handle));
    if (!folder) throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    if (folder->state(folder->spec()).state != COFFER_M_STARTED)
      throw not_passed("the Machine is not started");
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const coffer_probe probe = {
        wanted.port, wanted.http ? wanted.method.c_str() : nullptr, wanted.path.c_str(),
        call.deadline_ns() ? call.deadline_ns()
                           : static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 +
                                 static_cast<uint64_t>(now.tv_nsec) + runtime::kProbeTimeoutNs,
        call.cancel_fd()};
    char why[COFFER_PROBE_WHY];
    switch (coffer_probe_try(&probe, why)) {
      case COFFER_PROBE_PASSED:
        return;
      case COFFER_PROBE_NOT_PASSED:
        throw not_passed(why);
      case COFFER_PROBE_CANCELLED:
        throw Error{COFFER_CANCELLED, "cancelled"};
      case COFFER_PROBE_IMPOSSIBLE:
        break;
    }
    throw Error{COFFER_UNAVAILABLE, "the check cannot be tried: " + std::string(why)};
  }

  const void *interface(std::string_view id) noexcept override {
    if (id == COFFER_RUNTIME_UPDATE_ID) return &kUpdate;
    return id == COFFER_RUNTIME_PROBE_ID ? &kProbe : Runtime::interface(id);
  }

 private:
  // A child of ours, which goes when this end is closed.
  struct Reaper {
    int pid;
    Fd &its;
    ~Reaper() {
      its.close();
      reap(pid);
    }
  };

  // Sends the boot frame and waits for the one word on how it went.
  static supervisor_message hand_over(const Call &call, const Spec &spec, const sdk::SecureBuffer &frame,
                                      const Fd &to, const Fd &status) {
    for (size_t sent = 0;;) {
      std::vector<Watched> fds = {{status.get(), POLLIN}, {sent < frame.size() ? to.get() : -1, POLLOUT}};
      wait_for(call, fds, -1);
      if (fds[0].revents) break;
      const ssize_t sent_now =
          ::send(to.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent_now > 0) sent += static_cast<size_t>(sent_now);
      if (sent_now < 0 && errno != EAGAIN && errno != EINTR) sent = frame.size();  // the status says why
    }
    supervisor_message m{};
    if (!receive(status.get(), m))
      throw Error{COFFER_UNAVAILABLE,
                  "the supervisor of instance " + spec.instance_id + " ended without a word"};
    return m;
  }

  static std::optional<Handle> decode(std::string_view handle) {
    std::optional<Handle> h = Handle::decode(handle);
    if (!h || !instance_id_ok(h->instance_id)) throw invalid("the handle is not one of runtime-process");
    return h;
  }

  Fd open_folder(const std::string &name) const {
    return Fd(::openat(state_dir_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  }

  std::optional<MachineFolder> find(const std::string &id) const {
    Fd fd = open_folder(id);
    if (!fd) {
      if (errno == ENOENT) return {};
      throw errno_error(COFFER_UNAVAILABLE, "the folder of instance " + id, errno);
    }
    return MachineFolder(state_dir_.get(), id, std::move(fd));
  }

  // A handle that names a process other than the one on record names a Machine that is gone.
  std::optional<MachineFolder> find(const std::optional<Handle> &handle) const {
    std::optional<MachineFolder> folder = find(handle->instance_id);
    if (folder && !handle->boot_id.empty()) {
      const MachineState s = folder->state(Spec{});
      if (s.boot_id != handle->boot_id || s.app != handle->app) return {};
    }
    return folder;
  }

  // A damaged spec must not keep a Machine from being stopped.
  static Spec spec_or_none(const MachineFolder &folder) {
    try {
      return folder.spec();
    } catch (const Error &) {
      return {};
    }
  }

  // Orders the end and waits for it.  The supervisor keeps the time, so the order holds if we are killed.
  // Signal 0, timeout 0: as the spec says.
  void stop_folder(const Call &call, const MachineFolder &folder, int signal, uint64_t timeout_ns) const {
    const Spec unknown;
    MachineState s;
    {
      const std::optional<Fd> turn = folder.lock(call);
      if (!turn) return;
      for (;; wait_for(call, -1, 10)) {  // a start whose caller was killed has its record in a moment
        s = folder.state(unknown);
        if (s.state == COFFER_M_CREATED || s.ended()) break;
        if (s.supervisor.pid) break;
      }
      if (s.state == COFFER_M_CREATED) return;
      if (s.ended()) return kill_leftover(s);
      if (!signal || !timeout_ns) {
        const Spec own = spec_or_none(folder);
        if (!signal) signal = own.stop_signal ? own.stop_signal : SIGTERM;
        if (!timeout_ns) timeout_ns = own.stop_timeout_ns ? own.stop_timeout_ns : kDefaultStopNs;
      }
      const uint64_t timeout_ms = std::min<uint64_t>(timeout_ns / 1'000'000, INT32_MAX);
      folder.write("stop",
                   "signal " + std::to_string(signal) + "\ntimeout_ms " + std::to_string(timeout_ms) + "\n");
    }
    const Fd supervisor = s.supervisor.open();
    if (supervisor) {
      ::syscall(SYS_pidfd_send_signal, supervisor.get(), SIGUSR1, nullptr, 0);
      wait_for(call, supervisor.get(), -1);
    }
    kill_leftover(folder.state(unknown));
  }

  std::vector<std::string> instance_ids() const {
    std::vector<std::string> ids;
    const int fd = ::openat(state_dir_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? ::fdopendir(fd) : nullptr;
    if (!dir) throw errno_error(COFFER_UNAVAILABLE, "the state folder", errno);
    while (const dirent *entry = ::readdir(dir))
      if (instance_id_ok(entry->d_name)) ids.emplace_back(entry->d_name);
    ::closedir(dir);
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  // Folders appear and vanish under this lock, so what is unfinished then belongs to a caller that was
  // killed.
  Fd lock_state_dir(const Call &call) const {
    Fd file(::openat(state_dir_.get(), ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file) throw errno_error(COFFER_UNAVAILABLE, "the lock of the state folder", errno);
    while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR)
        throw errno_error(COFFER_UNAVAILABLE, "the lock of the state folder", errno);
      wait_for(call, -1, 10);
    }
    remove_leftovers();
    return file;
  }

  // REQUIRES: lock_state_dir().
  void remove_leftovers() const {
    const std::filesystem::path root = "/proc/self/fd/" + std::to_string(state_dir_.get());
    std::error_code ignored;
    for (const auto &entry : std::filesystem::directory_iterator(root / ".", ignored)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(".new-") || name.starts_with(".gone-"))
        std::filesystem::remove_all(entry.path(), ignored);
    }
  }

  static Fd watch(const MachineFolder &folder, uint32_t mask) {
    Fd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    const std::string path = "/proc/self/fd/" + std::to_string(folder.fd());
    if (!fd || ::inotify_add_watch(fd.get(), path.c_str(), mask) < 0)
      throw errno_error(COFFER_RESOURCE_EXHAUSTED, "cannot watch the Machine (fs.inotify limits)", errno);
    return fd;
  }

  static void drain(const Fd &fd) {
    char buffer[4096];
    while (::read(fd.get(), buffer, sizeof buffer) > 0) {
    }
  }

  static bool answer(const sdk::Machines &emit, const Spec &spec, const MachineState &s, bool full_handle) {
    Handle h{spec.instance_id, "", {}};
    if (full_handle && !s.boot_id.empty()) {
      h.boot_id = s.boot_id;
      h.app = s.app;
    }
    const std::string handle = h.encode(), native_id = s.app.pid ? std::to_string(s.app.pid) : "";
    std::vector<coffer_pair> labels;
    for (const auto &[key, value] : spec.labels) labels.push_back({sdk::to_str(key), sdk::to_bytes(value)});
    coffer_machine_status out{};
    out.struct_size = sizeof out;
    out.state = s.state;
    out.name = sdk::to_str(spec.name);
    out.instance_id = sdk::to_str(spec.instance_id);
    out.native_id = sdk::to_str(native_id);
    out.message = sdk::to_str(s.message);
    out.exit_code = s.exit_code;
    out.exit_signal = s.exit_signal;
    out.created_ns = spec.created_ns;
    out.started_ns = s.started_ns;
    out.finished_ns = s.finished_ns;
    out.handle = sdk::to_bytes(handle);
    out.labels = labels.data();
    out.n_labels = labels.size();
    return emit(out);
  }

  static bool answer_gone(const sdk::Machines &emit, const std::string &instance_id) {
    Spec spec;
    spec.instance_id = instance_id;
    return answer(emit, spec, MachineState{}, false);
  }

  Fd state_dir_;
  std::string supervisor_;
};

const coffer_option kSupervisor = {sizeof(coffer_option),
                                   COFFER_OPT_PATH,
                                   0,
                                   COFFER_OPTF_EXISTS,
                                   "supervisor",
                                   "the program that stays beside each Machine",
                                   COFFER_SUPERVISOR_PATH,
                                   nullptr,
                                   nullptr,
                                   1,
                                   0};
const coffer_option *const kOptions[] = {&kSupervisor};
const coffer_interface_ref kInterfaces[] = {{COFFER_RUNTIME_ID, 0},
                                            {COFFER_RUNTIME_LOGS_ID, 0},
                                            {COFFER_RUNTIME_EXEC_ID, 0},
                                            {COFFER_RUNTIME_PROBE_ID, 0},
                                            {COFFER_RUNTIME_UPDATE_ID, 0}};
const coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                       COFFER_PLUGIN_CONCURRENT,
                                       "runtime-process",
                                       "runtime-process",
                                       "0.1.0",
                                       "Coffer",
                                       "Apache-2.0",
                                       "",
                                       "Runs Machines as processes of this host that outlive their caller.",
                                       kInterfaces,
                                       std::size(kInterfaces),
                                       kOptions,
                                       1};

}  // namespace
}  // namespace coffer::runtime_process

COFFER_PLUGIN(coffer::runtime_process::RuntimeProcess, coffer::runtime_process::kDescriptor);
