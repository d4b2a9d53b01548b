// runtime-docker: Machines as containers of a local Docker engine, from unmodified images.
//
// A container's first process is coffer-init, mounted read-only at /.coffer/init: it takes the boot frame
// from its standard input and becomes the image's own command.  So no value is in a request to the engine.
// File secrets lie in a tmpfs of the host and are mounted one by one.  What is left where: README.md.
#include <Poco/JSON/Array.h>
#include <Poco/JSON/Parser.h>
#include <Poco/SHA1Engine.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <coffer/runtime.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <map>

#include "container.h"
#include "demux.h"
#include "files.h"
#include "images.h"

namespace coffer::runtime_docker {
namespace {
using sdk::Call;
using sdk::Error;
using sdk::view;

constexpr int kProbePassed = 0, kProbeNotPassed = 1;
constexpr int kExitFrame = 78, kExitNotRunnable = 126, kExitNotFound = 127;
constexpr int kLookAgainMs = 1, kLooksPerInspection = 500;
constexpr int kKillPatienceMs = 10'000, kEndSeenMs = 10'000;
constexpr std::string_view kInitSays = "coffer-init: ";

int64_t wall_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

uint64_t monotonic_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

std::string seconds(int64_t ns) {
  std::string nanos = std::to_string(ns % 1'000'000'000);
  nanos.insert(0, 9 - nanos.size(), '0');
  return std::to_string(ns / 1'000'000'000) + "." + nanos;
}

// A file of /proc; "" for what has just gone.  Not by an ifstream, which throws when a read fails, as it does
// then.
std::string read_file(const std::string &path) {
  std::string out;
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[4096];
  for (ssize_t n; file && (n = ::read(file.get(), buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<size_t>(n));
  return out;
}

// What the first process of a container is: not yet coffer-init (the engine's helper is to become it),
// coffer-init, or the app.
enum class FirstProcess { kGone, kEarly, kInit, kApp };
FirstProcess first_process(int pid) {
  using namespace std::string_literals;
  const std::string proc = "/proc/" + std::to_string(pid) + "/";
  const std::string command = read_file(proc + "cmdline");
  if (command.starts_with(kInitPath + "\0run\0"s)) return FirstProcess::kInit;
  if (command == "runc\0init\0"s) return FirstProcess::kEarly;
  if (!command.empty()) return FirstProcess::kApp;
  // None while a program is being replaced by another one, and of apps that wipe theirs.
  const std::string name = read_file(proc + "comm");
  return name.empty()                                   ? FirstProcess::kGone
         : name == "init\n" || name.starts_with("runc") ? FirstProcess::kEarly
                                                        : FirstProcess::kApp;
}

// Also when nobody has reaped it yet.
bool has_ended(int pid) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return errno == ESRCH;
  pollfd p{process.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) > 0;
}

int signal_number(std::string_view name) {
  int number = 0;
  if (const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
      !name.empty() && error == std::errc() && end == name.data() + name.size())
    return number > 0 && number < NSIG ? number : 0;
  if (name.starts_with("SIG")) name.remove_prefix(3);
  for (int s = 1; s < 32; ++s)
    if (const char *known = ::sigabbrev_np(s); known && name == known) return s;
  return 0;
}

// True when the process does nothing at all about the signal: neither catches nor blocks nor ignores it.  As
// the first process of a container it does not even get it, so that there is nothing to wait for: outside of
// a container it would have ended by it.
bool would_end_by(int pid, int signal) {
  if (signal < 1 || signal > 31 || signal == SIGWINCH || signal == SIGCHLD) return false;
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
  uint64_t handled = 0;
  for (const char *field : {"\nSigBlk:\t", "\nSigIgn:\t", "\nSigCgt:\t"}) {
    const size_t at = status.find(field);
    if (at == std::string::npos) return false;
    uint64_t mask = 0;
    const char *digits = status.data() + at + 9;
    std::from_chars(digits, digits + 16, mask, 16);
    handled |= mask;
  }
  // One that ended by it meanwhile, and that nobody has reaped, seems to handle none.
  return !(handled & (1ull << (signal - 1))) && !has_ended(pid);
}

uint32_t state_of(const Container &c, bool stop_ordered) {
  if (c.status == "created") return c.error.empty() ? COFFER_M_CREATED : COFFER_M_FAILED;
  if (c.running()) {
    const FirstProcess first = first_process(c.pid);
    return first == FirstProcess::kInit || first == FirstProcess::kEarly ? COFFER_M_STARTING
                                                                         : COFFER_M_STARTED;
  }
  if (c.status == "removing") return COFFER_M_STOPPING;
  return c.exit_code == 0 || stop_ordered ? COFFER_M_STOPPED : COFFER_M_FAILED;
}

class RuntimeDocker final : public sdk::Runtime<COFFER_VIA_ENV | COFFER_VIA_TMPFS, 0> {
 public:
  static std::vector<std::string> validate(const sdk::Options &options) {
    if (!Engine::endpoint_ok(options.get("endpoint")))
      return {"'endpoint' must be unix:// and the absolute path of a socket, at most 107 bytes"};
    return {};
  }

  static std::unique_ptr<Instance> open(const Call &, const sdk::Options &options) {
    if (const std::vector<std::string> wrong = validate(options); !wrong.empty())
      throw Error{COFFER_INVALID_ARGUMENT, wrong.front()};
    const std::string path(options.state_dir());
    Fd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (path.empty() || !folder)
      throw Error{COFFER_FAILED_PRECONDITION, "runtime-docker needs a state folder"};
    return std::make_unique<RuntimeDocker>(options, std::move(folder));
  }

  RuntimeDocker(const sdk::Options &options, Fd folder)
      : engine_(std::string(options.get("endpoint"))),
        notes_(std::move(folder)),
        init_(options.get("init")),
        files_(options.get("files")),
        docker_config_(options.get("docker_config")) {
    const auto variable = [&](const char *name) {
      const char *v = options.ambient() ? std::getenv(name) : nullptr;
      return std::string(v ? v : "");
    };
    runtime_dir_ = variable("XDG_RUNTIME_DIR");
    if (docker_config_.empty() && options.ambient()) {
      const std::string home = variable("HOME"), named = variable("DOCKER_CONFIG");
      docker_config_ = !named.empty() ? named + "/config.json"
                       : home.empty() ? ""
                                      : home + "/.docker/config.json";
    }
  }

  std::string probe(const Call &call) override {
    const Engine::Version &v = engine_.version(call);
    check_init();
    bool files = true;
    try {
      secret_files();
    } catch (const Error &) {
      files = false;
    }
    Poco::JSON::Object o;
    Poco::JSON::Array::Ptr vias = new Poco::JSON::Array;
    vias->add("env");
    if (files) vias->add("tmpfs");
    o.set("vias", vias);
    o.set("engine", v.engine);
    o.set("api", v.api);
    std::ostringstream out;
    o.stringify(out);
    return out.str();
  }

  // ---- life cycle ----

  void create(const Call &call, const coffer_machine_spec &given, const sdk::Machines &emit) override {
    const coffer_machine_spec spec = sdk::whole(given);
    const std::string instance(view(spec.instance_id));
    if (!runtime::instance_id_ok(instance))
      throw Error{COFFER_INVALID_ARGUMENT, "the instance id is not valid"};
    const runtime::Places places = runtime::check_deliveries(spec);
    for (size_t i = 0; i < spec.n_mounts; ++i) {
      const std::string target(view(spec.mounts[i]->target));
      if (std::find(places.files.begin(), places.files.end(), target) != places.files.end())
        throw Error{COFFER_INVALID_ARGUMENT, "guest path " + target + " is given twice"};
      for (const std::string &folder : places.folders)
        if ((target + "/").starts_with(folder + "/"))
          throw Error{COFFER_INVALID_ARGUMENT, "folder " + folder + " is replaced as a whole, so " + target +
                                                   " cannot be mounted in it"};
    }
    check_init();
    const std::string reference = runtime::text(spec.image, "the image");
    const Image image = find_image(engine_, call, reference);
    std::vector<std::string> paths, folders;
    for (size_t i = 0; i < places.files.size(); ++i) paths.push_back(secret_files().path(instance, i));
    for (size_t i = 0; i < places.folders.size(); ++i)
      folders.push_back(secret_files().folder_path(instance, i));
    const Request request = create_request(spec, image, places, init_, paths, folders);

    const Fd held =
        places.files.empty() ? Fd() : secret_files().prepare(instance, paths.size(), folders.size());
    const Answer a = engine_.call(call, "POST", "/containers/create?name=" + escaped(request.container_name),
                                  request.body);
    if (a.status == 409) {
      const std::optional<Container> there = find(call, request.container_name);
      if (!there) throw Error{COFFER_ABORTED, "instance " + instance + " was just removed elsewhere"};
      if (there->instance != instance)
        throw Error{COFFER_ALREADY_EXISTS,
                    "a container that is not Coffer's has the name " + request.container_name};
      if (there->spec != hash_label(request.body))
        throw Error{COFFER_ALREADY_EXISTS, "instance " + instance + " exists with another configuration"};
      answer(emit, *there);
      return;
    }
    if (!a.ok()) {
      if (held) secret_files().remove(instance);
      throw refusal(a, "the container cannot be created");
    }
    warn_of_volumes(spec, image, reference);
    if (!places.files.empty() && ::geteuid() != 0)
      sdk::Host::log(COFFER_LOG_WARN, "runtime-docker",
                     "file secrets are readable for every user in the container (mode 0444): only root can "
                     "give them another owner");
    coffer_machine_status made{};
    made.state = COFFER_M_CREATED;
    made.created_ns = wall_ns();
    const std::string id = a.object()->getValue<std::string>("Id");
    send(emit, made, instance, std::string(view(spec.name)), id, Handle{instance, id}.encode(),
         runtime::labels(spec));
  }

  void start(const Call &call, std::string_view handle, const coffer_delivery *const *deliveries,
             size_t n) override {
    const Handle h = Handle::decode(handle);
    const Fd turn = notes_.lock(call, h.instance);
    const std::optional<Container> c = find(call, h.container);
    if (!c) {
      notes_.remove(h.instance);
      throw Error{COFFER_NOT_FOUND, "the instance is gone: create it anew"};
    }
    if (!c->never_started())
      throw Error{
          COFFER_FAILED_PRECONDITION,
          "instance " + h.instance + " was started before: an instance is started once, create a new one"};
    const runtime::Places places = decode_places(c->places);
    const sdk::SecureBuffer frame =
        runtime::build_frame(h.instance, places, deliveries, n, runtime::FrameOf::kEnvOnly);
    deliver_files(call, *c, places, deliveries, n);

    // Attached before the start: then nothing of the frame can be missed.
    Answer refused;
    const std::unique_ptr<Stream> input = engine_.stream(
        call, "POST", "/containers/" + h.container + "/attach?stream=1&stdin=1", "", true, refused);
    if (!input) throw refusal(refused, "the container cannot be attached to");
    const Answer started = engine_.call(call, "POST", "/containers/" + h.container + "/start");
    if (started.status == 304)
      throw Error{COFFER_FAILED_PRECONDITION, "instance " + h.instance + " was started by somebody else"};
    if (!started.ok()) throw refusal(started, "the container cannot be started");
    // The frame goes out when coffer-init is seen there: then the next program that is seen is the app.
    const std::optional<Container> running =
        wait_for_first(call, h.container, [](FirstProcess f) { return f == FirstProcess::kInit; });
    if (!running) {
      judge_end(call, h.container);
      throw Error{COFFER_FAILED_PRECONDITION, "the container ended before its app was started"};
    }
    // A reader that is gone has said why.
    if (input->write(call, frame.data(), frame.size())) input->finish_writing();
    if (!wait_for_first(call, h.container, [](FirstProcess f) { return f == FirstProcess::kApp; }, running))
      judge_end(call, h.container);
  }

  void stop(const Call &call, std::string_view handle, std::string_view signal,
            uint64_t timeout_ns) override {
    const Handle h = Handle::decode(handle);
    const std::optional<Container> c = find(call, h.container);
    if (c && c->running()) stop_container(call, *c, signal, timeout_ns);
    // It is never started again: an instance is started once.
    if (c && !c->never_started()) remove_files(h.instance);
  }

  void destroy(const Call &call, std::string_view handle, bool force) override {
    const Handle h = Handle::decode(handle);
    if (!force)
      if (const std::optional<Container> c = find(call, h.container); c && c->running())
        stop_container(call, *c, "", 0);
    // v: with the volumes that have no name.
    const Answer a = engine_.call(call, "DELETE", "/containers/" + h.container + "?force=1&v=1");
    if (a.status == 409) {
      await_removal(call, h.container);  // somebody else is at it
    } else if (!a.ok() && a.status != 404) {
      throw refusal(a, "the container cannot be removed");
    }
    remove_files(h.instance);
    notes_.remove(h.instance);
  }

  // The folder is mounted, so what changes in it on the host changes in the container.
  void update(const Call &call, std::string_view handle, const coffer_delivery *const *deliveries, size_t n,
              std::string_view signal) override {
    const Handle h = Handle::decode(handle);
    const Fd turn = notes_.lock(call, h.instance);
    const std::optional<Container> c = find(call, h.container);
    if (!c) {
      notes_.remove(h.instance);
      throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    }
    if (state_of(*c, false) != COFFER_M_STARTED)
      throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
    const runtime::Places places = decode_places(c->places);
    const auto by_folder = runtime::check_update(places, deliveries, n);
    if (!signal.empty() && !signal_number(signal))
      throw Error{COFFER_INVALID_ARGUMENT, "signal '" + std::string(signal) + "' is not known"};
    for (const auto &[folder, files] : by_folder) replace_folder(call, *c, places, folder, files);
    if (signal.empty()) return;
    const Answer a = engine_.call(
        call, "POST", "/containers/" + h.container + "/kill?signal=" + escaped(std::string(signal)));
    if (!a.ok()) throw refusal(a, "the signal cannot be sent");
  }

  // ---- what is ----

  void inspect(const Call &call, std::string_view handle, const sdk::Machines &emit) override {
    const Handle h = Handle::decode(handle);
    if (const std::optional<Container> c = find(call, h.container))
      answer(emit, *c);
    else
      answer_gone(emit, h);
  }

  void list(const Call &call, const coffer_pair *labels, size_t n, const sdk::Machines &emit) override {
    for (const std::string &id : container_ids(call, labels, n)) {
      const std::optional<Container> c = find(call, id);
      if (c && has_labels(*c, labels, n) && !answer(emit, *c)) return;
    }
  }

  void wait(const Call &call, std::string_view handle, const sdk::Machines &emit) override {
    const Handle h = Handle::decode(handle);
    // Listening first: what changes after the look is then seen.
    const std::unique_ptr<Stream> changes =
        event_stream(call, "{\"type\":[\"container\"],\"container\":[\"" + h.container + "\"]}");
    const auto look = [&] {
      const std::optional<Container> c = find(call, h.container);
      return c ? state_of(*c, notes_.stop_ordered(h.instance)) : COFFER_M_GONE;
    };
    const uint32_t before = look();
    const auto ended = [](uint32_t s) {
      return s == COFFER_M_STOPPED || s == COFFER_M_FAILED || s == COFFER_M_GONE;
    };
    char buffer[4096];
    for (uint32_t now = before; now == before && !ended(now);) {
      // Becoming the app is no event of the engine's.
      if (now == COFFER_M_STARTING && !changes->has_ahead() &&
          !wait_for(call, changes->fd(), POLLIN, kLookAgainMs)) {
        now = look();
        continue;
      }
      if (changes->read(call, buffer, sizeof buffer) == 0) throw gone();
      now = look();
    }
    inspect(call, handle, emit);
  }

  void events(const Call &call, const coffer_pair *labels, size_t n, const sdk::Machines &emit) override {
    Poco::JSON::Object::Ptr filters = label_filter(labels, n);
    for (const char *key : {"type", "event"})
      filters->set(key, Poco::JSON::Array::Ptr(new Poco::JSON::Array));
    filters->getArray("type")->add("container");
    for (const char *event : {"start", "die", "oom", "destroy", "pause", "unpause"})
      filters->getArray("event")->add(event);
    const std::unique_ptr<Stream> changes = event_stream(call, json_text(filters));
    coffer_machine_status listening{};
    listening.struct_size = sizeof listening;
    if (!emit(listening)) return;
    std::string line;
    char buffer[8192];
    for (size_t got; (got = changes->read(call, buffer, sizeof buffer)) > 0;)
      for (size_t i = 0; i < got; ++i) {
        if (buffer[i] != '\n') {
          line += buffer[i];
          continue;
        }
        const Json event = Answer{200, std::exchange(line, "")}.object();
        const Json actor = event->getObject("Actor");
        if (!actor) continue;
        const std::string id = actor->optValue<std::string>("ID", "");
        if (const std::optional<Container> c = find(call, id)) {
          if (has_labels(*c, labels, n) && !answer(emit, *c)) return;
        } else if (const Json attributes = actor->getObject("Attributes")) {
          Handle h{attributes->optValue<std::string>(kInstanceLabel, ""), id};
          std::vector<std::pair<std::string, std::string>> kept;
          for (const auto &[key, value] : *attributes) kept.emplace_back(key, value.convert<std::string>());
          if (!h.instance.empty() && !answer_gone(emit, h, kept)) return;
        }
      }
    throw gone();
  }

  void sweep(const Call &call) override {
    std::vector<std::string> suspects;
    for (const std::string &instance : secret_files().instances())
      if (secret_files().abandoned(instance)) suspects.push_back(instance);
    const std::vector<std::string> noted = notes_.instances();
    if (suspects.empty() && noted.empty()) return;
    std::set<std::string> there;
    for (const std::string &id : container_ids(call, nullptr, 0))
      if (const std::optional<Container> c = find(call, id)) there.insert(c->instance);
    for (const std::string &instance : suspects)
      if (!there.contains(instance)) secret_files().remove(instance);
    for (const std::string &instance : noted)
      if (!there.contains(instance)) notes_.remove(instance);
  }

  // ---- logs ----

  void logs(const Call &call, std::string_view handle, const coffer_log_query &query,
            const sdk::Chunks &emit) override {
    const Handle h = Handle::decode(handle);
    const uint32_t streams = (query.flags >> 1) & 3u ? (query.flags >> 1) & 3u : 3u;
    std::string path = "/containers/" + h.container + "/logs?timestamps=1";
    path += std::string("&stdout=") + (streams & 1u ? "1" : "0") + "&stderr=" + (streams & 2u ? "1" : "0");
    if (query.flags & 1u) path += "&follow=1";
    if (query.since_ns > 0) path += "&since=" + seconds(query.since_ns);
    if (query.tail) path += "&tail=" + std::to_string(query.tail);
    Answer refused;
    const std::unique_ptr<Stream> stream = engine_.stream(call, "GET", path, "", false, refused);
    if (!stream && refused.status == 404)
      throw Error{COFFER_NOT_FOUND, "the instance is gone and its log with it"};
    if (!stream) throw refusal(refused, "the log");
    // Each entry is a frame of its own, behind its time and a blank.
    bool wanted = true;
    Demux demux(true, [&](uint32_t which, std::string_view entry) {
      const size_t blank = std::min(entry.find(' '), entry.size());
      const int64_t time_ns = parse_time(entry.substr(0, blank));
      entry.remove_prefix(std::min(blank + 1, entry.size()));
      return wanted = emit(which, time_ns, entry);
    });
    char buffer[32768];
    for (size_t got; (got = stream->read(call, buffer, sizeof buffer)) > 0;)
      if (!demux.feed({buffer, got})) break;
  }

  // ---- exec ----

  int32_t exec(const Call &call, std::string_view handle, const coffer_exec_spec &in,
               const coffer_exec_io &io) override {
    const Handle h = Handle::decode(handle);
    const std::optional<Container> c = find(call, h.container);
    if (!c) throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    if (state_of(*c, false) != COFFER_M_STARTED)
      throw Error{COFFER_FAILED_PRECONDITION, "the Machine is not started"};
    if (c->status == "paused")
      throw Error{COFFER_FAILED_PRECONDITION,  "the container is paused", "", 0, 0,
                  "`docker unpause` it first."};
    if (io.flags & 1u) throw Error{COFFER_UNIMPLEMENTED, "runtime-docker offers no terminal yet"};
    if (in.n_argv == 0 || view(in.argv[0]).empty())
      throw Error{COFFER_INVALID_ARGUMENT, "exec needs a command"};
    const bool has_input = io.struct_size > offsetof(coffer_exec_io, in_fd) && io.in && io.in_fd >= 0;

    std::vector<std::string> command = {std::string(kInitPath), "exec"};
    if (in.workdir.size) {
      command.push_back("--workdir");
      command.push_back(runtime::text(in.workdir, "the working directory"));
    }
    command.push_back("--");
    for (size_t i = 0; i < in.n_argv; ++i) command.push_back(runtime::text(in.argv[i], "the command"));
    const std::string id = create_exec(call, h, command, has_input, runtime::text(in.user, "the user"));
    const std::unique_ptr<Stream> stream = start_exec(call, id);
    try {
      pass_on(call, *stream, io, has_input);
      return exit_code_of(call, id);
    } catch (...) {
      end_exec(id);
      throw;
    }
  }

  // ---- checks ----

  // Made by coffer-init inside the container: nothing else can be relied on there, and nothing of the image
  // sees it.
  void try_check(const Call &call, std::string_view handle, const coffer_probe_spec &in) override {
    const runtime::Probe probe = runtime::read_probe(in);
    const Handle h = Handle::decode(handle);
    const std::optional<Container> c = find(call, h.container);
    if (!c) throw Error{COFFER_NOT_FOUND, "the instance is gone"};
    if (state_of(*c, false) != COFFER_M_STARTED) throw not_passed("the Machine is not started");
    if (c->status == "paused") throw not_passed("the container is paused");
    const uint64_t now = monotonic_ns();
    const uint64_t end = call.deadline_ns() ? call.deadline_ns() : now + runtime::kProbeTimeoutNs;
    const uint64_t left_ms = end > now ? std::clamp<uint64_t>((end - now) / 1'000'000, 1, 3'600'000) : 1;
    std::vector<std::string> command = {std::string(kInitPath), "probe", probe.http ? "http" : "tcp",
                                        std::to_string(probe.port)};
    if (probe.http) command.insert(command.end(), {probe.method, probe.path});
    command.push_back(std::to_string(left_ms));

    const std::string id = create_exec(call, h, command, false, "");
    const std::unique_ptr<Stream> stream = start_exec(call, id);
    std::string said;
    int32_t code = -1;
    try {
      stream->finish_writing();
      Demux demux(false, [&](uint32_t, std::string_view data) {
        said.append(data.substr(0, 512));
        return said.size() < 512;
      });
      char buffer[1024];
      for (size_t n; (n = stream->read(call, buffer, sizeof buffer)) > 0;)
        if (!demux.feed({buffer, n})) break;
      code = exit_code_of(call, id);
    } catch (const Error &e) {
      end_exec(id);
      if (e.status == COFFER_DEADLINE_EXCEEDED) throw not_passed("no answer in time");
      throw;
    }
    while (!said.empty() && static_cast<unsigned char>(said.back()) <= 0x20) said.pop_back();
    if (code == kProbePassed) return;
    if (code == kProbeNotPassed) throw not_passed(said);
    if (said.empty()) throw Error{COFFER_UNAVAILABLE, "the check was ended with its Machine", "exit", code};
    if (said.starts_with(kInitSays)) said.erase(0, kInitSays.size());
    throw Error{COFFER_UNAVAILABLE, "the check cannot be tried: " + said, "exit", code};
  }

  // ---- images ----

  std::string ensure_image(const Call &call, std::string_view image, uint32_t flags,
                           const sdk::Lines &progress) override {
    const std::string reference(image);
    const bool plain = !reference.empty() && reference.size() <= 1024 &&
                       std::all_of(reference.begin(), reference.end(),
                                   [](unsigned char ch) { return ch > 0x20 && ch < 0x7f; });
    if (!plain)
      throw Error{COFFER_INVALID_ARGUMENT,
                  "the image is no image reference: expected NAME, NAME:TAG or NAME@DIGEST"};
    if (flags & COFFER_IMAGE_PULL) pull_image(engine_, call, reference, docker_config_, progress);
    return immutable_reference(find_image(engine_, call, reference), reference);
  }

  const void *interface(std::string_view id) noexcept override {
    if (id == COFFER_RUNTIME_IMAGES_ID) return &kImages;
    if (id == COFFER_RUNTIME_EVENTS_ID) return &kEvents;
    if (id == COFFER_RUNTIME_PROBE_ID) return &kProbe;
    if (id == COFFER_RUNTIME_UPDATE_ID) return &kUpdate;
    return Runtime::interface(id);
  }

 private:
  // ---- the engine's containers ----

  std::optional<Container> find(const Call &call, const std::string &id_or_name) {
    for (bool waited = false;; waited = true) {
      const Answer a = engine_.call(call, "GET", "/containers/" + escaped(id_or_name) + "/json");
      if (a.status == 404) return std::nullopt;
      if (!a.ok()) throw refusal(a, "the container cannot be inspected");
      Container c(a.object());
      // The engine needs a moment to see an end: until then it calls a container running in which nothing
      // is, be it coffer-init that got no frame.
      if (waited || !c.running() || !has_ended(c.pid)) return c;
      await_end(call, c.id, kEndSeenMs);
    }
  }

  Error gone() const {
    return {COFFER_UNAVAILABLE, "the Docker engine at " + engine_.endpoint() + " has ended the connection"};
  }

  static Poco::JSON::Object::Ptr label_filter(const coffer_pair *labels, size_t n) {
    Poco::JSON::Array::Ptr all = new Poco::JSON::Array;
    all->add(std::string(kInstanceLabel));
    for (size_t i = 0; i < n; ++i)
      all->add(std::string(view(labels[i].key)) + "=" + std::string(view(labels[i].value)));
    Poco::JSON::Object::Ptr out = new Poco::JSON::Object;
    out->set("label", all);
    return out;
  }

  std::vector<std::string> container_ids(const Call &call, const coffer_pair *labels, size_t n) {
    const Answer a = engine_.call(
        call, "GET", "/containers/json?all=1&filters=" + escaped(json_text(label_filter(labels, n))));
    if (!a.ok()) throw refusal(a, "the containers cannot be listed");
    std::vector<std::string> ids;
    try {
      Poco::JSON::Parser parser;
      const auto all = parser.parse(a.body).extract<Poco::JSON::Array::Ptr>();
      for (size_t i = 0; i < all->size(); ++i)
        ids.push_back(all->getObject(static_cast<unsigned>(i))->getValue<std::string>("Id"));
    } catch (const Poco::Exception &) {
      throw Error{COFFER_DATA_LOSS, "the Docker engine answered a list that cannot be read"};
    }
    return ids;
  }

  static bool has_labels(const Container &c, const coffer_pair *labels, size_t n) {
    return std::all_of(labels, labels + n, [&](const coffer_pair &l) {
      return std::find(c.labels.begin(), c.labels.end(),
                       std::pair(std::string(view(l.key)), std::string(view(l.value)))) != c.labels.end();
    });
  }

  static std::string hash_label(const std::string &body) {
    Json labels = Answer{200, body}.object()->getObject("Labels");
    return labels->getValue<std::string>(kSpecLabel);
  }

  std::unique_ptr<Stream> event_stream(const Call &call, const std::string &filters) {
    Answer refused;
    // A second back: the engine answers before it listens.
    std::unique_ptr<Stream> stream = engine_.stream(
        call, "GET", "/events?since=" + seconds(wall_ns() - 1'000'000'000) + "&filters=" + escaped(filters),
        "", false, refused);
    if (!stream) throw refusal(refused, "the engine's events");
    return stream;
  }

  // ---- parts of a start ----

  void check_init() const {
    struct stat st;
    if (::stat(init_.c_str(), &st) != 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
      throw Error{COFFER_FAILED_PRECONDITION,
                  "coffer-init is not at " + init_ + ", or is no program",
                  "",
                  0,
                  0,
                  "Install Coffer anew, or name the file as `init` under [runtime] in engine.toml."};
  }

  const SecretFiles &secret_files() {
    const std::lock_guard lock(mutex_);
    if (!secret_files_) {
      Poco::SHA1Engine hash;  // instances of several engines lie side by side
      hash.update(engine_.endpoint());
      secret_files_ = SecretFiles::open(
          files_, runtime_dir_, "docker-" + Poco::DigestEngine::digestToHex(hash.digest()).substr(0, 12));
    }
    return *secret_files_;
  }

  void deliver_files(const Call &call, const Container &c, const runtime::Places &places,
                     const coffer_delivery *const *deliveries, size_t n) {
    std::map<std::string, std::vector<const coffer_delivery *>> by_folder;
    const SecretFiles::Owner owner = owner_in(call, c);
    for (size_t i = 0; i < places.files.size(); ++i) {
      const auto *const *at = std::find_if(deliveries, deliveries + n, [&](const coffer_delivery *d) {
        return d->via == COFFER_VIA_TMPFS && view(d->name) == places.files[i];
      });
      if (in_folder(places, places.files[i])) {
        by_folder[runtime::folder_of(places.files[i])].push_back(*at);
        continue;
      }
      const auto [uid, gid] = owner(**at);
      secret_files().fill(c.instance, i, **at, uid, gid);
    }
    for (const auto &[folder, files] : by_folder) replace_folder(call, c, places, folder, files);
  }

  void replace_folder(const Call &call, const Container &c, const runtime::Places &places,
                      const std::string &folder, const std::vector<const coffer_delivery *> &files) {
    const auto at = std::lower_bound(places.folders.begin(), places.folders.end(), folder);
    secret_files().replace(c.instance, static_cast<size_t>(at - places.folders.begin()), files,
                           owner_in(call, c));
  }

  // The container's user is looked up once, and not before it is needed.
  SecretFiles::Owner owner_in(const Call &call, const Container &c) {
    return [&, user = std::optional<std::pair<uint32_t, uint32_t>>()](const coffer_delivery &d) mutable {
      if (d.flags & COFFER_DLV_OWNER) return std::pair(d.uid, d.gid);
      if (!user) user = user_of(call, c);
      return *user;
    };
  }

  // uid and gid of the container's user; names are looked up in the image's own /etc.
  std::pair<uint32_t, uint32_t> user_of(const Call &call, const Container &c) {
    const size_t colon = c.user.find(':');
    const std::string name = c.user.substr(0, colon),
                      group = colon == std::string::npos ? "" : c.user.substr(colon + 1);
    const auto number = [](const std::string &s, uint32_t &out) {
      const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
      return !s.empty() && error == std::errc() && end == s.data() + s.size();
    };
    uint32_t uid = 0, gid = 0;
    if (c.user.empty()) return {0, 0};
    const bool numeric = number(name, uid);
    // name:x:uid:gid:...
    const auto entry = [&](const char *file, auto &&matches) {
      std::istringstream lines(file_of(call, c.id, file));
      std::vector<std::string> fields;
      for (std::string line; std::getline(lines, line); fields.clear()) {
        std::istringstream parts(line);
        for (std::string part; std::getline(parts, part, ':');) fields.push_back(part);
        if (fields.size() >= 3 && matches(fields)) return fields;
      }
      return std::vector<std::string>{};
    };
    if (!numeric || group.empty()) {
      const auto found =
          entry("/etc/passwd", [&](const auto &f) { return numeric ? f[2] == name : f[0] == name; });
      if (!numeric && (found.empty() || !number(found[2], uid)))
        throw Error{COFFER_INVALID_ARGUMENT,  "the image has no user '" + name + "'", "", 0, 0,
                    "Give --user as UID:GID."};
      if (found.size() > 3) number(found[3], gid);
    }
    if (!group.empty() && !number(group, gid)) {
      const auto found = entry("/etc/group", [&](const auto &f) { return f[0] == group; });
      if (found.empty() || !number(found[2], gid))
        throw Error{COFFER_INVALID_ARGUMENT,  "the image has no group '" + group + "'", "", 0, 0,
                    "Give --user as UID:GID."};
    }
    return {uid, gid};
  }

  // One file of a container, by way of the tar that the engine makes of it; "" when there is none.
  std::string file_of(const Call &call, const std::string &container, const std::string &path) {
    const Answer a = engine_.call(call, "GET", "/containers/" + container + "/archive?path=" + escaped(path));
    constexpr size_t kBlock = 512;
    if (!a.ok() || a.body.size() < kBlock || (a.body[156] != '0' && a.body[156] != '\0')) return "";
    size_t size = 0;
    std::from_chars(a.body.data() + 124, a.body.data() + 135, size, 8);
    return a.body.substr(kBlock, size);
  }

  // Waits until the container's first process is what is wanted; nothing when it ended before.  Its end is an
  // event, its becoming another program is none.
  template <class F>
  std::optional<Container> wait_for_first(const Call &call, const std::string &id, F &&wanted,
                                          std::optional<Container> c = {}) {
    for (;; c.reset()) {
      if (!c) c = find(call, id);
      if (!c || !c->running()) return std::nullopt;
      // Nothing would ever change, and nobody else could change this Machine.
      if (c->status == "paused")
        throw Error{COFFER_FAILED_PRECONDITION, "the container was paused while it started"};
      const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, c->pid, 0)));
      bool ended = !process;
      for (int looks = 0; !ended && looks < kLooksPerInspection; ++looks) {
        if (wanted(first_process(c->pid))) return c;
        ended = wait_for(call, process.get(), POLLIN, kLookAgainMs);
      }
      if (ended) await_end(call, id, -1);  // the engine needs a moment to see it, too
    }
  }

  // It ended before anybody saw the app in it: by coffer-init's doing, or because the app was quick.
  void judge_end(const Call &call, const std::string &id) {
    const std::optional<Container> c = find(call, id);
    if (!c) throw Error{COFFER_ABORTED, "the container was removed while it started"};
    if (c->out_of_memory)
      throw Error{COFFER_FAILED_PRECONDITION,   "the container ran out of memory while it started", "", 0, 0,
                  "Give it more with --memory."};
    if (!c->error.empty())
      throw Error{COFFER_FAILED_PRECONDITION, "the container did not start: " + c->error};
    if (c->exit_code != kExitFrame && c->exit_code != kExitNotRunnable && c->exit_code != kExitNotFound)
      return;
    const std::string sentence = last_words(call, id);
    if (sentence.starts_with(kInitSays))
      throw Error{COFFER_FAILED_PRECONDITION, sentence.substr(kInitSays.size()), "exit", c->exit_code};
  }

  // The last line that the container wrote to its standard error.
  std::string last_words(const Call &call, const std::string &id) {
    std::string line;
    Answer refused;
    const std::unique_ptr<Stream> stream =
        engine_.stream(call, "GET", "/containers/" + id + "/logs?stderr=1&tail=1", "", false, refused);
    if (!stream) return "";
    Demux demux(true, [&](uint32_t, std::string_view entry) {
      line = entry.substr(0, 1024);
      return true;
    });
    char buffer[4096];
    for (size_t got; (got = stream->read(call, buffer, sizeof buffer)) > 0;) demux.feed({buffer, got});
    while (!line.empty() && static_cast<unsigned char>(line.back()) < 0x20) line.pop_back();
    return line;
  }

  void warn_of_volumes(const coffer_machine_spec &spec, const Image &image,
                       const std::string &reference) const {
    for (const std::string &path : image.volumes) {
      const bool mounted = std::any_of(spec.mounts, spec.mounts + spec.n_mounts,
                                       [&](const coffer_mount *m) { return view(m->target) == path; });
      if (!mounted)
        sdk::Host::log(COFFER_LOG_WARN, "runtime-docker",
                       "image " + reference + " keeps data in " + path + ": without -v NAME:" + path +
                           " it is lost with each new instance");
    }
  }

  // ---- parts of a stop ----

  // Waits until the container does not run: true, or false after `timeout_ms` (-1: none).
  bool await_end(const Call &call, const std::string &id, int timeout_ms) {
    const std::unique_ptr<Stream> end = end_of(call, id);
    return !end || comes(call, *end, timeout_ms);
  }
  // Says something when the container does not run; nullptr: there is none.
  std::unique_ptr<Stream> end_of(const Call &call, const std::string &id) {
    Answer refused;
    std::unique_ptr<Stream> end =
        engine_.stream(call, "POST", "/containers/" + id + "/wait?condition=not-running", "", false, refused);
    if (!end && refused.status != 404) throw refusal(refused, "the container cannot be waited for");
    return end;
  }
  static bool comes(const Call &call, Stream &end, int timeout_ms) {
    return end.has_ahead() || wait_for(call, end.fd(), POLLIN, timeout_ms);
  }

  void stop_container(const Call &call, const Container &c, std::string_view signal, uint64_t timeout_ns) {
    const std::string wanted = !signal.empty()          ? std::string(signal)
                               : !c.stop_signal.empty() ? c.stop_signal
                                                        : "SIGTERM";
    const uint64_t timeout_ms =
        timeout_ns ? timeout_ns / 1'000'000 : static_cast<uint64_t>(std::max(c.stop_timeout_s, 0)) * 1000;
    const bool ordered_before = notes_.stop_ordered(c.instance);
    notes_.note_stop_order(c.instance, true);
    const std::unique_ptr<Stream> end = end_of(call, c.id);
    if (!end) return;
    const auto kill = [&](const std::string &what) {
      const Answer a = engine_.call(call, "POST", "/containers/" + c.id + "/kill?signal=" + escaped(what));
      if (a.ok() || a.status == 404 || a.status == 409) return;  // gone, or not running any more
      const bool unknown = a.status == 400 || a.body.find("nvalid signal") != std::string::npos;
      if (unknown) notes_.note_stop_order(c.instance, ordered_before);
      Error e = refusal(a, "the container cannot be stopped");
      if (unknown) e = Error{COFFER_INVALID_ARGUMENT, "signal '" + what + "' is not known"};
      throw e;
    };
    if (c.status == "paused") engine_.call(call, "POST", "/containers/" + c.id + "/unpause");
    kill(wanted);
    if (!would_end_by(c.pid, signal_number(wanted)) &&
        comes(call, *end, static_cast<int>(std::min<uint64_t>(timeout_ms, INT32_MAX))))
      return;
    kill("SIGKILL");
    if (!comes(call, *end, kKillPatienceMs))
      throw Error{COFFER_UNAVAILABLE, "the container does not end, although it was killed"};
  }

  void await_removal(const Call &call, const std::string &id) {
    Answer refused;
    const std::unique_ptr<Stream> end =
        engine_.stream(call, "POST", "/containers/" + id + "/wait?condition=removed", "", false, refused);
    if (end) comes(call, *end, kKillPatienceMs);
    if (find(call, id))
      throw Error{COFFER_UNAVAILABLE, "the container is being removed by somebody else, and is not gone yet"};
  }

  // A host without a place for file secrets has none.
  void remove_files(const std::string &instance) {
    try {
      secret_files();
    } catch (const Error &) {
      return;
    }
    secret_files().remove(instance);
  }

  // ---- parts of an exec ----

  std::string create_exec(const Call &call, const Handle &h, const std::vector<std::string> &words,
                          bool has_input, const std::string &user) {
    Poco::JSON::Array::Ptr command = new Poco::JSON::Array;
    for (const std::string &word : words) command->add(word);
    Poco::JSON::Object o;
    o.set("Cmd", command);
    o.set("AttachStdin", has_input);
    for (const char *key : {"AttachStdout", "AttachStderr"}) o.set(key, true);
    if (!user.empty()) o.set("User", user);
    std::ostringstream body;
    o.stringify(body);
    const Answer a = engine_.call(call, "POST", "/containers/" + h.container + "/exec", body.str());
    if (!a.ok()) throw refusal(a, "the command cannot be prepared");
    return a.object()->getValue<std::string>("Id");
  }

  std::unique_ptr<Stream> start_exec(const Call &call, const std::string &id) {
    Answer refused;
    std::unique_ptr<Stream> stream = engine_.stream(call, "POST", "/exec/" + id + "/start",
                                                    R"({"Detach":false,"Tty":false})", true, refused);
    if (!stream) throw refusal(refused, "the command cannot be started");
    return stream;
  }

  static void pass_on(const Call &call, Stream &stream, const coffer_exec_io &io, bool has_input) {
    Demux demux(false, [&](uint32_t which, std::string_view data) {
      return !io.out || io.out(io.ctx, which, wall_ns(), sdk::to_bytes(data)) == 0;
    });
    char input[16384], output[65536];
    struct Wiper {
      char *a, *b;
      size_t na, nb;
      ~Wiper() {
        sdk::Host::cleanse(a, na);
        sdk::Host::cleanse(b, nb);
      }
    } const wiper{input, output, sizeof input, sizeof output};
    size_t at = 0, size = 0;
    bool more_input = has_input;
    if (!more_input) stream.finish_writing();
    for (;;) {
      const bool holding = at < size;
      pollfd fds[] = {{stream.fd(), static_cast<short>(POLLIN | (holding ? POLLOUT : 0)), 0},
                      {more_input && !holding ? io.in_fd : -1, POLLIN, 0},
                      {call.cancel_fd(), POLLIN, 0}};
      if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      if (!stream.has_ahead()) {
        const int ready = ::poll(fds, 3, call.deadline_ns() ? 100 : -1);
        if (ready == 0) wait_for(call, -1, 0, 0);  // is the deadline over?
        if (ready <= 0) continue;
      } else {
        fds[0].revents = POLLIN;
      }
      if (holding && (fds[0].revents & POLLOUT)) {
        const ssize_t n = stream.write_some(input + at, size - at);
        if (n < 0) more_input = false, at = size = 0;  // the command reads no more
        if (n > 0) at += static_cast<size_t>(n);
      }
      if (fds[1].revents) {
        const int64_t n = io.in(io.ctx, input, sizeof input);
        if (n < 0) throw Error{COFFER_CANCELLED, "cancelled"};
        at = 0;
        size = static_cast<size_t>(n);
        if (n == 0) {
          more_input = false;
          stream.finish_writing();
        }
      }
      if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
        const size_t n = stream.read(call, output, sizeof output);
        if (n == 0) return;
        if (!demux.feed({output, n})) throw Error{COFFER_CANCELLED, "the output was refused"};
      }
    }
  }

  Json exec_state(const Call &call, const std::string &id) {
    const Answer a = engine_.call(call, "GET", "/exec/" + id + "/json");
    if (a.status == 404) throw Error{COFFER_UNAVAILABLE, "the command was ended with its Machine"};
    if (!a.ok()) throw refusal(a, "the command cannot be inspected");
    return a.object();
  }

  // The stream ends a moment before the engine knows the exit code.
  int32_t exit_code_of(const Call &call, const std::string &id) {
    for (;;) {
      const Json o = exec_state(call, id);
      if (!o->optValue<bool>("Running", false) && !o->isNull("ExitCode"))
        return o->getValue<int32_t>("ExitCode");
      wait_for(call, -1, 0, kLookAgainMs);
    }
  }

  // The engine lets a command go on when its caller goes away.
  void end_exec(const std::string &id) noexcept {
    try {
      const Call nobody(nullptr);
      const Json o = exec_state(nobody, id);
      const int pid = o->optValue<int>("Pid", 0);
      const Fd process(pid > 1 ? static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)) : -1);
      if (process && exec_state(nobody, id)->optValue<bool>("Running", false))
        ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
    } catch (...) {  // the engine may be what is gone
    }
  }

  // ---- answers ----

  bool answer(const sdk::Machines &emit, const Container &c) const {
    const bool ordered = notes_.stop_ordered(c.instance);
    const std::string handle = Handle{c.instance, c.id}.encode();
    coffer_machine_status s{};
    s.state = state_of(c, ordered);
    std::string message = c.error;
    if (c.out_of_memory) {
      message = "it ran out of memory";
      s.flags = 1;
    } else if (c.status == "paused") {
      message = "the container is paused";
    }
    s.exit_code = c.exit_code;
    s.created_ns = c.created_ns;
    s.started_ns = c.started_ns;
    s.finished_ns = c.finished_ns;
    s.message = sdk::to_str(message);
    return send(emit, s, c.instance, c.name, c.id, handle, c.labels);
  }

  static bool answer_gone(const sdk::Machines &emit, const Handle &h,
                          const std::vector<std::pair<std::string, std::string>> &labels = {}) {
    coffer_machine_status s{};
    s.state = COFFER_M_GONE;
    return send(emit, s, h.instance, "", h.container, h.encode(), labels);
  }

  static bool send(const sdk::Machines &emit, coffer_machine_status &s, const std::string &instance,
                   const std::string &name, const std::string &native, const std::string &handle,
                   const std::vector<std::pair<std::string, std::string>> &labels) {
    std::vector<coffer_pair> raw;
    for (const auto &[key, value] : labels) raw.push_back({sdk::to_str(key), sdk::to_bytes(value)});
    s.struct_size = sizeof s;
    s.instance_id = sdk::to_str(instance);
    s.name = sdk::to_str(name);
    s.native_id = sdk::to_str(native);
    s.handle = sdk::to_bytes(handle);
    s.labels = raw.data();
    s.n_labels = raw.size();
    return emit(s);
  }

  Engine engine_;
  InstanceNotes notes_;
  std::string init_, files_, docker_config_, runtime_dir_;
  std::mutex mutex_;
  std::optional<SecretFiles> secret_files_;
};

constexpr coffer_option option(uint16_t type, uint32_t flags, const char *key, const char *doc,
                               const char *otherwise, const char *example) {
  return {sizeof(coffer_option), type, 0, flags, key, doc, otherwise, example, nullptr, 1, 0};
}
constexpr coffer_option kEndpoint =
    option(COFFER_OPT_URL, 0, "endpoint", "the engine's socket, on this host", "unix:///var/run/docker.sock",
           "unix:///run/user/1000/docker.sock");
constexpr coffer_option kInit =
    option(COFFER_OPT_PATH, 0, "init", "the program coffer-init, first process of every container",
           COFFER_INIT_PATH, nullptr);
constexpr coffer_option kFiles = option(
    COFFER_OPT_PATH, 0, "files", "a tmpfs for file secrets (default: /run/coffer, or one of the user's own)",
    nullptr, "/run/my-secrets");
constexpr coffer_option kDockerConfig =
    option(COFFER_OPT_PATH, 0, "docker_config", "what `docker login` wrote (default: ~/.docker/config.json)",
           nullptr, "/etc/coffer/registry.json");
constexpr const coffer_option *kOptions[] = {&kEndpoint, &kInit, &kFiles, &kDockerConfig};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_RUNTIME_ID, 0},        {COFFER_RUNTIME_LOGS_ID, 0},
                                                {COFFER_RUNTIME_EXEC_ID, 0},   {COFFER_RUNTIME_IMAGES_ID, 0},
                                                {COFFER_RUNTIME_EVENTS_ID, 0}, {COFFER_RUNTIME_PROBE_ID, 0},
                                                {COFFER_RUNTIME_UPDATE_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           COFFER_PLUGIN_CONCURRENT,
                                           "runtime-docker",
                                           "runtime-docker",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "Runs Machines as containers of a local Docker engine.",
                                           kInterfaces,
                                           std::size(kInterfaces),
                                           kOptions,
                                           std::size(kOptions)};

}  // namespace
}  // namespace coffer::runtime_docker

COFFER_PLUGIN(coffer::runtime_docker::RuntimeDocker, coffer::runtime_docker::kDescriptor);
