#include "container.h"

#include <Poco/JSON/Array.h>
#include <Poco/JSON/Parser.h>
#include <Poco/SHA1Engine.h>
#include <time.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <sstream>

namespace coffer::runtime_docker {
namespace {
using Poco::JSON::Array;
using Poco::JSON::Object;
using runtime::Places;
using sdk::Error;
using sdk::view;

Array::Ptr array_of(const std::vector<std::string> &texts) {
  Array::Ptr out = new Array;
  for (const std::string &t : texts) out->add(t);
  return out;
}

std::vector<std::string> texts(const Json &o, const char *key) {
  std::vector<std::string> out;
  const Array::Ptr a = o ? o->getArray(key) : nullptr;
  for (size_t i = 0; a && i < a->size(); ++i)
    out.push_back(a->getElement<std::string>(static_cast<unsigned>(i)));
  return out;
}

template <class T>
T number_of(const Json &o, const char *key, T otherwise) {
  return o && o->has(key) && !o->isNull(key) ? o->getValue<T>(key) : otherwise;
}

// The engine's requests are JSON: it would put other bytes in place of those that are no UTF-8.
std::string utf8(std::string text, const std::string &what) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
    const unsigned c = byte(i);
    const size_t n = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;
    bool ok = n > 0;
    for (size_t k = 1; k < n; ++k) ok = ok && byte(i + k) >= 0x80 && byte(i + k) < 0xc0;
    if ((c == 0xe0 && byte(i + 1) < 0xa0) || (c == 0xed && byte(i + 1) >= 0xa0) ||
        (c == 0xf0 && byte(i + 1) < 0x90) || (c == 0xf4 && byte(i + 1) >= 0x90))
      ok = false;
    if (!ok)
      throw Error{COFFER_INVALID_ARGUMENT,
                  what + " is not UTF-8, and the Docker engine takes nothing else",
                  "",
                  0,
                  0,
                  "Secrets may hold any bytes."};
    i += n;
  }
  return text;
}

std::vector<std::string> words(const coffer_str *list, size_t n, const char *what) {
  std::vector<std::string> out;
  for (size_t i = 0; i < n; ++i) out.push_back(utf8(runtime::text(list[i], what), what));
  return out;
}

// An image's health check runs with the app's environment: behind `coffer-init exec`.
Json health_check(const Json &config) {
  const Json check = config ? config->getObject("Healthcheck") : nullptr;
  const std::vector<std::string> test = texts(check, "Test");
  if (test.size() < 2 || (test[0] != "CMD" && test[0] != "CMD-SHELL")) return nullptr;
  std::vector<std::string> wrapped = {"CMD", kInitPath, "exec", "--"};
  if (test[0] == "CMD-SHELL") {
    std::vector<std::string> shell = texts(config, "Shell");
    if (shell.empty()) shell = {"/bin/sh", "-c"};
    wrapped.insert(wrapped.end(), shell.begin(), shell.end());
  }
  wrapped.insert(wrapped.end(), test.begin() + 1, test.end());
  Json out = new Object(*check);
  out->set("Test", array_of(wrapped));
  return out;
}

Json bind_mount(const std::string &source, const std::string &target, bool read_only) {
  Json m = new Object;
  m->set("Type", "bind");
  m->set("Source", source);
  m->set("Target", target);
  m->set("ReadOnly", read_only);
  return m;
}

bool valid_name_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
         c == '-';
}

// NAME-INSTANCE: unique as the instance is, and `docker ps` shows which Machine it is.
std::string container_name(std::string_view name, const std::string &instance) {
  std::string out(name);
  std::erase_if(out, [](char c) { return !valid_name_char(c); });
  if (out.empty() || out[0] == '.' || out[0] == '-' || out[0] == '_') out = "coffer" + out;
  return out + "-" + instance;
}

std::string hash_of(const std::string &text) {
  Poco::SHA1Engine engine;  // tells one configuration from another; nothing rests on it
  engine.update(text);
  return Poco::DigestEngine::digestToHex(engine.digest());
}

}  // namespace

// ---- places ----

std::string encode(const Places &p) {
  Object o;
  o.set("variables", array_of(p.variables));
  o.set("files", array_of(p.files));
  if (!p.folders.empty()) o.set("folders", array_of(p.folders));
  std::ostringstream out;
  o.stringify(out);
  return out.str();
}

Places decode_places(const std::string &text) {
  try {
    Poco::JSON::Parser parser;
    const Json o = parser.parse(text).extract<Json>();
    return {texts(o, "variables"), texts(o, "files"), texts(o, "folders")};
  } catch (const Poco::Exception &) {
    throw Error{COFFER_DATA_LOSS, "the container's label " + std::string(kPlacesLabel) + " is damaged"};
  }
}

bool in_folder(const Places &p, const std::string &file) {
  return std::binary_search(p.folders.begin(), p.folders.end(), runtime::folder_of(file));
}

// ---- images ----

Image read_image(const Json &o) {
  Image i;
  i.id = text_of(o, "Id");
  i.architecture = text_of(o, "Architecture");
  i.digests = texts(o, "RepoDigests");
  i.config = o->getObject("Config");
  i.user = text_of(i.config, "User");
  i.workdir = text_of(i.config, "WorkingDir");
  i.entrypoint = texts(i.config, "Entrypoint");
  i.command = texts(i.config, "Cmd");
  if (const Json volumes = i.config ? i.config->getObject("Volumes") : nullptr)
    for (const auto &[path, nothing] : *volumes) i.volumes.push_back(path);
  return i;
}

// ---- create ----

Request create_request(const coffer_machine_spec &spec, const Image &image, const Places &places,
                       const std::string &init, const std::vector<std::string> &file_paths,
                       const std::vector<std::string> &folder_paths) {
  const std::string instance(view(spec.instance_id));
  // As with `docker run`: another entrypoint drops the image's command too.
  std::vector<std::string> entrypoint = words(spec.entrypoint, spec.n_entrypoint, "the entrypoint");
  std::vector<std::string> command = words(spec.argv, spec.n_argv, "the command");
  if (command.empty() && entrypoint.empty()) command = image.command;
  if (entrypoint.empty()) entrypoint = image.entrypoint;
  entrypoint.insert(entrypoint.end(), command.begin(), command.end());
  if (entrypoint.empty() || entrypoint.front().empty())
    throw Error{COFFER_INVALID_ARGUMENT,      "the image has neither an entrypoint nor a command", "", 0, 0,
                "Give the command behind --."};

  std::vector<std::string> start = {kInitPath, "run", instance};
  if (spec.workdir.size) {
    start.emplace_back("--workdir");
    start.push_back(utf8(runtime::text(spec.workdir, "the working directory"), "the working directory"));
  }
  start.emplace_back("--");

  Object o;
  o.set("Image", utf8(runtime::text(spec.image, "the image"), "the image"));
  o.set("Entrypoint", array_of(start));
  o.set("Cmd", array_of(entrypoint));
  Array::Ptr env = new Array;
  for (const std::string &entry : runtime::plain_env(spec))
    env->add(utf8(entry, "variable " + entry.substr(0, entry.find('='))));
  o.set("Env", env);
  if (spec.user.size) o.set("User", utf8(runtime::text(spec.user, "the user"), "the user"));
  // Standard input ends with its first reader: the boot frame comes once.
  for (const char *key : {"AttachStdin", "OpenStdin", "StdinOnce"}) o.set(key, true);
  if (spec.stop_signal.size) o.set("StopSignal", std::string(view(spec.stop_signal)));
  if (spec.stop_timeout_ns) o.set("StopTimeout", (spec.stop_timeout_ns + 999'999'999) / 1'000'000'000);
  if (const Json check = health_check(image.config)) o.set("Healthcheck", check);

  Json host = new Object;
  Array::Ptr mounts = new Array;
  mounts->add(bind_mount(init, kInitPath, true));
  for (size_t i = 0; i < places.files.size(); ++i)
    if (!in_folder(places, places.files[i])) mounts->add(bind_mount(file_paths[i], places.files[i], true));
  for (size_t i = 0; i < places.folders.size(); ++i)
    mounts->add(bind_mount(folder_paths[i], places.folders[i], true));
  for (size_t i = 0; i < spec.n_mounts; ++i) {
    const coffer_mount &m = *spec.mounts[i];
    const std::string source(view(m.source)), target(view(m.target));
    Json mount = bind_mount(source, target, m.flags & COFFER_MOUNT_READ_ONLY);
    if (!source.starts_with('/')) mount->set("Type", "volume");
    mounts->add(mount);
  }
  host->set("Mounts", mounts);
  if (spec.n_ports) {
    Json exposed = new Object, bindings = new Object;
    for (size_t i = 0; i < spec.n_ports; ++i) {
      const coffer_port &p = *spec.ports[i];
      const std::string port = std::to_string(p.port) + (p.protocol == 17 ? "/udp" : "/tcp");
      Json binding = new Object;
      binding->set("HostIp", std::string(view(p.host_ip)));
      binding->set("HostPort", p.host_port ? std::to_string(p.host_port) : "");
      Array::Ptr all = bindings->getArray(port);
      if (!all) all = new Array;
      all->add(binding);
      bindings->set(port, all);
      exposed->set(port, Json(new Object));
    }
    o.set("ExposedPorts", exposed);
    host->set("PortBindings", bindings);
  }
  if (spec.network.size) host->set("NetworkMode", std::string(view(spec.network)));
  host->set("ReadonlyRootfs", (spec.flags & COFFER_SPEC_READ_ONLY) != 0);
  if (spec.n_cap_drop) host->set("CapDrop", array_of(words(spec.cap_drop, spec.n_cap_drop, "a capability")));
  if (spec.memory_bytes) host->set("Memory", spec.memory_bytes);
  Json restart = new Object;
  restart->set("Name", "no");  // who decides that is the agent: only it has the values
  host->set("RestartPolicy", restart);
  // A core file would hold the environment.  1 byte and not 0, with which a core handler is started
  // nevertheless.
  Json core = new Object;
  core->set("Name", "core");
  core->set("Soft", 1);
  core->set("Hard", 1);
  Array::Ptr limits = new Array;
  limits->add(core);
  host->set("Ulimits", limits);
  host->set("Init", false);  // whatever the engine does by default: the first process is the app
  o.set("HostConfig", host);

  Json labels = new Object;
  for (const auto &[key, value] : runtime::labels(spec))
    labels->set(utf8(key, "a label"), utf8(value, "a label"));
  labels->set(kInstanceLabel, instance);
  labels->set(kNameLabel, std::string(view(spec.name)));
  labels->set(kPlacesLabel, encode(places));
  o.set("Labels", labels);
  std::ostringstream without;
  o.stringify(without);
  labels->set(kSpecLabel, hash_of(without.str()));
  std::ostringstream body;
  o.stringify(body);
  return {container_name(view(spec.name), instance), body.str()};
}

// ---- inspect ----

int64_t parse_time(std::string_view text) {
  // 2026-11-24T22:39:14.123456789Z
  tm t{};
  const auto number = [&](size_t at, size_t n, int &out) {
    return text.size() >= at + n &&
           std::from_chars(text.data() + at, text.data() + at + n, out).ptr == text.data() + at + n;
  };
  if (!number(0, 4, t.tm_year) || !number(5, 2, t.tm_mon) || !number(8, 2, t.tm_mday) ||
      !number(11, 2, t.tm_hour) || !number(14, 2, t.tm_min) || !number(17, 2, t.tm_sec) || t.tm_year < 1970)
    return 0;
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  int64_t nanos = 0, unit = 100'000'000;
  size_t at = 19;
  if (at < text.size() && text[at] == '.')
    for (++at; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, unit /= 10)
      nanos += (text[at] - '0') * unit;
  return static_cast<int64_t>(::timegm(&t)) * 1'000'000'000 + nanos;
}

Container::Container(const Json &o) {
  const Json state = o->getObject("State"), config = o->getObject("Config");
  if (!state || !config)
    throw Error{COFFER_DATA_LOSS, "the Docker engine answered a container without state or config"};
  id = text_of(o, "Id");
  image = text_of(config, "Image");
  user = text_of(config, "User");
  status = text_of(state, "Status");
  error = text_of(state, "Error");
  pid = number_of<int>(state, "Pid", 0);
  exit_code = number_of<int>(state, "ExitCode", 0);
  out_of_memory = number_of<bool>(state, "OOMKilled", false);
  created_ns = parse_time(text_of(o, "Created"));
  started_ns = parse_time(text_of(state, "StartedAt"));
  finished_ns = parse_time(text_of(state, "FinishedAt"));
  stop_signal = text_of(config, "StopSignal");
  stop_timeout_s = number_of<int>(config, "StopTimeout", 10);
  command = texts(config, "Cmd");
  if (Json all = config->getObject("Labels"))
    for (const auto &[key, value] : *all) {
      const std::string v = value.convert<std::string>();
      if (key == kInstanceLabel)
        instance = v;
      else if (key == kNameLabel)
        name = v;
      else if (key == kPlacesLabel)
        places = v;
      else if (key == kSpecLabel)
        spec = v;
      else
        labels.emplace_back(key, v);
    }
}

// ---- handles ----

std::string Handle::encode() const { return "docker 1 " + instance + " " + container; }

Handle Handle::decode(std::string_view text) {
  Handle h;
  std::istringstream in{std::string(text)};
  std::string kind, version, rest;
  const auto id_ok = [](const std::string &s) {
    return s.size() == 64 && std::all_of(s.begin(), s.end(), [](char c) {
             return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
  };
  if (!(in >> kind >> version >> h.instance >> h.container) || in >> rest || kind != "docker" ||
      version != "1" || !std::all_of(h.instance.begin(), h.instance.end(), valid_name_char) ||
      h.instance[0] == '.' || !id_ok(h.container))
    throw Error{COFFER_INVALID_ARGUMENT, "the handle is not one of runtime-docker"};
  return h;
}

}  // namespace coffer::runtime_docker
