#include "images.h"

#include <Poco/Base64Decoder.h>
#include <Poco/Base64Encoder.h>
#include <Poco/JSON/Parser.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace coffer::runtime_docker {
namespace {
using sdk::Call;
using sdk::Error;

// As images name it.
#if defined(__x86_64__)
constexpr char kArchitecture[] = "amd64";
#elif defined(__aarch64__)
constexpr char kArchitecture[] = "arm64";
#else
#error "name this architecture as Docker does"
#endif
constexpr char kDockerHub[] = "https://index.docker.io/v1/";

std::string base64url(const std::string &text) {
  std::ostringstream out;
  Poco::Base64Encoder encoder(out, Poco::BASE64_URL_ENCODING);
  encoder.rdbuf()->setLineLength(0);
  encoder << text;
  encoder.close();
  return out.str();
}

Json read_json_file(const std::string &path) {
  std::ifstream in(path);
  if (!in) return nullptr;
  try {
    Poco::JSON::Parser parser;
    return parser.parse(in).extract<Json>();
  } catch (const Poco::Exception &) {
    throw Error{COFFER_INVALID_ARGUMENT, path + " is not what `docker login` writes"};
  }
}

// A program that keeps credentials for `docker login`: docker-credential-NAME get, the registry on its input.
std::string ask_helper(const std::string &name, const std::string &registry) {
  const std::string program = "docker-credential-" + name;
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return "";
  if (::pipe2(out, O_CLOEXEC) != 0) return ::close(in[0]), ::close(in[1]), "";
  const char *const argv[] = {program.c_str(), "get", nullptr};
  const pid_t child = ::vfork();
  if (child == 0) {
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::execvp(argv[0], const_cast<char *const *>(argv));
    ::_exit(127);
  }
  ::close(in[0]);
  ::close(out[1]);
  [[maybe_unused]] const ssize_t sent = child > 0 ? ::write(in[1], registry.data(), registry.size()) : 0;
  ::close(in[1]);
  std::string answer;
  char buffer[4096];
  for (ssize_t n; child > 0 && (n = ::read(out[0], buffer, sizeof buffer)) > 0;)
    answer.append(buffer, static_cast<size_t>(n));
  sdk::Host::cleanse(buffer, sizeof buffer);
  ::close(out[0]);
  int status = 1;
  if (child > 0) ::waitpid(child, &status, 0);
  return status == 0 ? answer : "";
}

// base64 of USER:PASSWORD, which the engine wants apart.
void set_login(Json &auth, const std::string &encoded) {
  std::istringstream in(encoded);
  Poco::Base64Decoder decoder(in);
  std::string both{std::istreambuf_iterator<char>(decoder), {}};
  const size_t colon = std::min(both.find(':'), both.size());
  auth->set("username", both.substr(0, colon));
  auth->set("password", both.substr(std::min(colon + 1, both.size())));
  sdk::Host::cleanse(both.data(), both.size());
}

// The header X-Registry-Auth; empty: nobody is logged in there.
std::string credentials(const std::string &docker_config, const std::string &registry) {
  const Json config = docker_config.empty() ? nullptr : read_json_file(docker_config);
  if (!config) return "";
  const auto as_header = [&](Json auth) {
    auth->set("serveraddress", registry);
    return base64url(json_text(auth));
  };
  const Json helpers = config->getObject("credHelpers");
  std::string helper = helpers ? text_of(helpers, registry.c_str()) : "";
  if (helper.empty()) helper = text_of(config, "credsStore");
  if (!helper.empty()) {
    std::string answer = ask_helper(helper, registry);
    if (!answer.empty()) try {
        Poco::JSON::Parser parser;
        const Json got = parser.parse(answer).extract<Json>();
        Json auth = new Poco::JSON::Object;
        const bool token = text_of(got, "Username") == "<token>";
        auth->set(token ? "identitytoken" : "username", text_of(got, token ? "Secret" : "Username"));
        if (!token) auth->set("password", text_of(got, "Secret"));
        sdk::Host::cleanse(answer.data(), answer.size());
        return as_header(auth);
      } catch (const Poco::Exception &) {
        throw Error{COFFER_UNAUTHENTICATED, "docker-credential-" + helper + " answered what cannot be read"};
      }
  }
  const Json auths = config->getObject("auths");
  const Json entry = auths ? auths->getObject(registry) : nullptr;
  if (!entry) return "";
  Json auth = new Poco::JSON::Object;
  if (const std::string token = text_of(entry, "identitytoken"); !token.empty())
    auth->set("identitytoken", token);
  else
    set_login(auth, text_of(entry, "auth"));
  return as_header(auth);
}

}  // namespace

Reference parse_reference(const std::string &text) {
  Reference r;
  std::string rest = text;
  if (const size_t at = rest.find('@'); at != std::string::npos) {
    r.digest = rest.substr(at + 1);
    rest.resize(at);
  }
  const size_t slash = rest.rfind('/');
  if (const size_t colon = rest.rfind(':');
      colon != std::string::npos && (slash == std::string::npos || colon > slash)) {
    r.tag = rest.substr(colon + 1);
    rest.resize(colon);
  }
  if (r.tag.empty() && r.digest.empty()) r.tag = "latest";
  r.repository = rest;
  const std::string first = rest.substr(0, rest.find('/'));
  const bool named = rest.find('/') != std::string::npos &&
                     (first.find_first_of(".:") != std::string::npos || first == "localhost");
  r.registry = named ? first : kDockerHub;
  return r;
}

Image find_image(Engine &engine, const Call &call, const std::string &reference) {
  const Answer a = engine.call(call, "GET", "/images/" + escaped(reference) + "/json");
  if (a.status == 404)
    throw Error{COFFER_NOT_FOUND,
                "image " + reference + " is not on this host",
                "http",
                a.status,
                0,
                "Get it with `docker pull " + reference + "`, or add --pull."};
  if (!a.ok()) throw refusal(a, "image " + reference);
  Image image = read_image(a.object());
  // coffer-init, of this build, is the first program in it.
  const std::string host = kArchitecture;
  if (!image.architecture.empty() && image.architecture != host)
    throw Error{COFFER_FAILED_PRECONDITION,
                "image " + reference + " is built for " + image.architecture + ", and this host is " + host,
                "",
                0,
                0,
                "Pull or build it for linux/" + host + "."};
  return image;
}

std::string immutable_reference(const Image &image, const std::string &reference) {
  const std::string prefix = parse_reference(reference).repository + "@";
  for (const std::string &digest : image.digests)
    if (digest.starts_with(prefix)) return digest;
  return image.id;
}

void pull_image(Engine &engine, const Call &call, const std::string &reference,
                const std::string &docker_config, const sdk::Lines &progress) {
  const Reference r = parse_reference(reference);
  const std::string which = r.digest.empty() ? r.tag : r.digest;
  Engine::Headers headers;
  if (std::string auth = credentials(docker_config, r.registry); !auth.empty())
    headers.emplace_back("X-Registry-Auth", std::move(auth));
  Answer refused;
  progress("pulling " + reference);
  const std::unique_ptr<Stream> stream = engine.stream(
      call, "POST", "/images/create?fromImage=" + escaped(r.repository) + "&tag=" + escaped(which), "", false,
      refused, headers);
  const auto failed = [&](const std::string &why) {
    const bool login =
        why.find("unauthorized") != std::string::npos || why.find("authentication") != std::string::npos ||
        why.find("denied") != std::string::npos || why.find("no basic auth") != std::string::npos;
    const bool absent =
        why.find("not found") != std::string::npos || why.find("unknown") != std::string::npos;
    return Error{
        login    ? COFFER_UNAUTHENTICATED
        : absent ? COFFER_NOT_FOUND
                 : COFFER_UNAVAILABLE,
        "image " + reference + " cannot be pulled: " + why,
        "http",
        0,
        0,
        login ? "Log in with `docker login " + (r.registry == kDockerHub ? std::string() : r.registry) + "`."
              : ""};
  };
  if (!stream) {
    const Error e = refusal(refused, "image");
    throw failed(e.message.substr(e.message.find(": ") + 2));
  }
  // One JSON object a line: {"status", "id", "progress"} or {"error"}.
  std::string line, last;
  char buffer[8192];
  for (size_t n; (n = stream->read(call, buffer, sizeof buffer)) > 0;) {
    for (size_t i = 0; i < n; ++i) {
      if (buffer[i] != '\n') {
        line += buffer[i];
        continue;
      }
      const Json o = Answer{200, std::exchange(line, "")}.object();
      if (const std::string error = text_of(o, "error"); !error.empty()) throw failed(error);
      const std::string id = text_of(o, "id"), status = text_of(o, "status");
      const std::string shown = (id.empty() ? "" : id + ": ") + status;
      // Bars redraw many times a second; a line tells what has changed.
      if (!status.empty() && shown != last) progress(shown);
      last = shown;
    }
  }
}

}  // namespace coffer::runtime_docker
