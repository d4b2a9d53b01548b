// What only holds for Machines that are containers: how the engine's answers are read, and what becomes of an
// engine that is gone, slow or talks nonsense.  With a real engine: the conformance suite, and tests/docker.
//   runtime_docker_test PLUGIN.so
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "container.h"
#include "demux.h"
#include "files.h"
#include "images.h"
#include "test_host.h"

namespace coffer::conformance {
namespace {
using namespace coffer::runtime_docker;
using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using namespace std::string_literals;

// ---- names and times ----
TEST(Reference, IsTakenApartAsDockerDoes) {
  const auto parts = [](const std::string &text) {
    const Reference r = parse_reference(text);
    return std::vector<std::string>{r.registry, r.repository, r.tag, r.digest};
  };
  const std::string hub = "https://index.docker.io/v1/", digest = "sha256:" + std::string(64, 'a');
  EXPECT_THAT(parts("nginx"), ElementsAre(hub, "nginx", "latest", ""));
  EXPECT_THAT(parts("nginx:1.2"), ElementsAre(hub, "nginx", "1.2", ""));
  EXPECT_THAT(parts("team/app:x"), ElementsAre(hub, "team/app", "x", ""));
  EXPECT_THAT(parts("localhost:5000/app"), ElementsAre("localhost:5000", "localhost:5000/app", "latest", ""));
  EXPECT_THAT(parts("registry.example/a/b:1@" + digest),
              ElementsAre("registry.example", "registry.example/a/b", "1", digest));
  EXPECT_THAT(parts("app@" + digest), ElementsAre(hub, "app", "", digest));
}

TEST(Reference, ImmutableIsTheDigestOfTheSameRepositoryElseTheId) {
  Image image;
  image.id = "sha256:id";
  EXPECT_EQ(immutable_reference(image, "app"), "sha256:id");
  image.digests = {"other@sha256:1", "localhost:5000/app@sha256:2"};
  EXPECT_EQ(immutable_reference(image, "app"), "sha256:id");
  EXPECT_EQ(immutable_reference(image, "localhost:5000/app:tag"), "localhost:5000/app@sha256:2");
}

TEST(Time, IsReadToTheNanosecond) {
  EXPECT_EQ(parse_time("1970-01-01T00:00:01.5Z"), 1'500'000'000);
  EXPECT_EQ(parse_time("2026-11-24T22:39:14.123456789Z"), 1795559954123456789);
  EXPECT_EQ(parse_time("0001-01-01T00:00:00Z"), 0) << "the engine's word for never";
  EXPECT_EQ(parse_time("rubbish"), 0);
  EXPECT_EQ(parse_time(""), 0);
}

TEST(Handles, ComeBackAndOthersAreRefused) {
  const Handle h{"inst-1", std::string(64, 'b')};
  const Handle back = Handle::decode(h.encode());
  EXPECT_EQ(back.instance, h.instance);
  EXPECT_EQ(back.container, h.container);
  for (const std::string &bad :
       {"docker 2 inst-1 "s + h.container, "docker 1 inst-1 short"s, h.encode() + " x",
        "docker 1 ../x " + h.container, "docker 1 .. " + h.container, ""s})
    EXPECT_THROW(Handle::decode(bad), sdk::Error) << bad;
}

// ---- the request ----
struct Order {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env = {};
};
Json request_of(const Order &order, const Image &image, const runtime::Places &places = {}) {
  coffer_machine_spec spec{};
  spec.struct_size = sizeof spec;
  spec.name = str("web");
  spec.instance_id = str("i1");
  spec.image = str("sha256:x");
  std::vector<coffer_str> argv;
  for (const std::string &a : order.argv) argv.push_back(str(a));
  std::vector<coffer_pair> env;
  for (const auto &[key, value] : order.env) env.push_back({str(key), bytes(value)});
  spec.argv = argv.data(), spec.n_argv = argv.size();
  spec.env = env.data(), spec.n_env = env.size();
  return Answer{200,
                create_request(spec, image, places, "/init", {"/run/0", "/run/1"}, {"/run/folder0"}).body}
      .object();
}
std::vector<std::string> list(const Json &o, const char *key) {
  std::vector<std::string> out;
  const auto a = o->getArray(key);
  for (unsigned i = 0; a && i < a->size(); ++i) out.push_back(a->getElement<std::string>(i));
  return out;
}

TEST(Request, PutsCofferInitInFrontOfTheImagesOwnCommand) {
  Image image;
  image.entrypoint = {"/entry"};
  image.command = {"serve"};
  Json o = request_of({}, image);
  EXPECT_THAT(list(o, "Entrypoint"), ElementsAre("/.coffer/init", "run", "i1", "--"));
  EXPECT_THAT(list(o, "Cmd"), ElementsAre("/entry", "serve"));
  EXPECT_THAT(list(request_of({.argv = {"other"}}, image), "Cmd"), ElementsAre("/entry", "other"));
  EXPECT_EQ(o->getObject("HostConfig")->getObject("RestartPolicy")->getValue<std::string>("Name"), "no");
  EXPECT_FALSE(o->getObject("HostConfig")->getValue<bool>("Init"));
}

TEST(Request, AllowsNoCoreFile) {
  Image image;
  image.command = {"serve"};
  const Json limit = request_of({}, image)->getObject("HostConfig")->getArray("Ulimits")->getObject(0);
  EXPECT_EQ(limit->getValue<std::string>("Name"), "core");
  EXPECT_EQ(limit->getValue<int>("Hard"), 1);
}

TEST(Request, OfAnImageWithoutCommandIsRefused) { EXPECT_THROW(request_of({}, {}), sdk::Error); }

TEST(Request, HealthCheckRunsWithTheAppsEnvironment) {
  Image image;
  image.command = {"serve"};
  image.config =
      Answer{200, R"({"Healthcheck":{"Test":["CMD-SHELL","test -n \"$T\""],"Interval":5}})"}.object();
  const Json check = request_of({}, image)->getObject("Healthcheck");
  EXPECT_THAT(list(check, "Test"),
              ElementsAre("CMD", "/.coffer/init", "exec", "--", "/bin/sh", "-c", "test -n \"$T\""));
  EXPECT_EQ(check->getValue<int>("Interval"), 5);
  image.config = Answer{200, R"({"Healthcheck":{"Test":["NONE"]}})"}.object();
  EXPECT_FALSE(request_of({}, image)->has("Healthcheck"));
}

TEST(Request, WhatIsNoUtf8IsRefusedByNameInsteadOfChanged) {
  Image image;
  image.command = {"serve"};
  for (const std::string &bad : {"\xff"s, "\xc3"s, "\xed\xa0\x80"s, "\xc0\xaf"s, "\xf5\x80\x80\x80"s}) {
    try {
      request_of({.argv = {"x"}, .env = {{"PLAIN", "a" + bad}}}, image);
      ADD_FAILURE() << "accepted";
    } catch (const sdk::Error &e) {
      EXPECT_THAT(e.message, HasSubstr("PLAIN"));
      EXPECT_THAT(e.message, Not(HasSubstr(bad)));
    }
    EXPECT_THROW(request_of({.argv = {bad}}, image), sdk::Error);
  }
  EXPECT_THAT(list(request_of({.argv = {"żółć ✓ 𝕏 \x01 \"'\\"}}, image), "Cmd"),
              ElementsAre("żółć ✓ 𝕏 \x01 \"'\\"));
}

TEST(Request, NamesOfWhatIsDeliveredComeBackFromTheLabel) {
  Image image;
  image.command = {"serve"};
  const runtime::Places places{{"A", "B"}, {"/run/a \"x\"", "/run/b"}};
  const Json o = request_of({}, image, places);
  const runtime::Places back = decode_places(o->getObject("Labels")->getValue<std::string>(kPlacesLabel));
  EXPECT_EQ(back.variables, places.variables);
  EXPECT_EQ(back.files, places.files);
  EXPECT_THROW(decode_places("{"), sdk::Error);
  EXPECT_THROW(decode_places("[]"), sdk::Error);
}

// ---- streams ----
std::string frame(char stream, const std::string &data) {
  std::string head(8, '\0');
  head[0] = stream;
  head[6] = static_cast<char>(data.size() >> 8);
  head[7] = static_cast<char>(data.size());
  return head + data;
}

TEST(Demux, TakesFramesApartWhereverTheyAreCut) {
  const std::string all = frame(1, "out") + frame(2, "err") + frame(1, "") + frame(1, std::string(1000, 'x'));
  for (size_t step = 1; step < all.size(); step += 7) {
    std::string out, err;
    std::vector<std::string> entries;
    Demux flowing(false, [&](uint32_t s, std::string_view d) { return (s == 2 ? err : out) += d, true; });
    Demux whole(true, [&](uint32_t, std::string_view d) { return entries.emplace_back(d), true; });
    for (size_t at = 0; at < all.size(); at += step) {
      EXPECT_TRUE(flowing.feed(std::string_view(all).substr(at, step)));
      EXPECT_TRUE(whole.feed(std::string_view(all).substr(at, step)));
    }
    EXPECT_EQ(out, "out" + std::string(1000, 'x'));
    EXPECT_EQ(err, "err");
    ASSERT_GE(entries.size(), 3u);
    EXPECT_EQ(entries[0], "out");
    EXPECT_EQ(entries[1], "err");
    EXPECT_EQ(entries.back(), std::string(1000, 'x'));
  }
}

TEST(Demux, StopsAtWhatIsNoFrameAndWhenNobodyListens) {
  Demux nonsense(false, [](uint32_t, std::string_view) { return true; });
  EXPECT_FALSE(nonsense.feed("HTTP/1.1 500"));
  Demux full(false, [](uint32_t, std::string_view) { return false; });
  EXPECT_FALSE(full.feed(frame(1, "x")));
}

// ---- file secrets ----
class SecretFilesTest : public PluginTest {};

TEST_F(SecretFilesTest, LieInMemoryOrNotAtAll) {
  struct stat st;
  if (::stat("/dev/shm", &st) != 0) GTEST_SKIP() << "no /dev/shm here";
  // A disk: refused.
  if (tmp().string().starts_with("/tmp") && ::access("/tmp/.", W_OK) == 0) {
    try {
      SecretFiles::open(tmp().string(), "", "e");
      if (::system(("test \"$(stat -f -c %T " + tmp().string() + ")\" = tmpfs").c_str()) != 0)
        ADD_FAILURE() << "a disk was taken";
    } catch (const sdk::Error &e) {
      EXPECT_EQ(e.status, COFFER_FAILED_PRECONDITION);
      EXPECT_THAT(e.message, HasSubstr("tmpfs"));
    }
  }
  char name[] = "/dev/shm/coffer-test-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  {
    const SecretFiles files = SecretFiles::open(name, "", "e");
    Fd held = files.prepare("i1", 2, 0);
    EXPECT_FALSE(files.abandoned("i1")) << "somebody is just making them";
    EXPECT_THAT(files.instances(), ElementsAre("i1"));
    coffer_delivery d{};
    d.struct_size = sizeof d;
    d.mode = 0440;
    const std::string value("a\0b\xff", 4);
    d.value = bytes(value);
    files.fill("i1", 1, d, ::geteuid(), ::getegid());
    std::ifstream in(files.path("i1", 1), std::ios::binary);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), value);
    ASSERT_EQ(::stat(files.path("i1", 1).c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, ::geteuid() == 0 ? 0440u : 0444u);
    ASSERT_EQ(::stat((std::string(name) + "/e").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0700u);
    const int open_elsewhere = ::open(files.path("i1", 1).c_str(), O_RDONLY);
    held = Fd();
    EXPECT_TRUE(files.abandoned("i1"));

    // A folder that is replaced, also after somebody who was killed in the middle of it.
    files.prepare("i2", 1, 1);
    const std::string folder = files.folder_path("i2", 0);
    d.name = str("/run/secrets/key");
    const auto owner = [](const coffer_delivery &) { return std::pair(::geteuid(), ::getegid()); };
    const auto names = [&] {
      std::vector<std::string> out;
      for (const auto &entry : std::filesystem::directory_iterator(folder))
        out.push_back(entry.path().filename());
      std::sort(out.begin(), out.end());
      return out;
    };
    const auto content = [&] {
      std::ifstream key(folder + "/key", std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(key), {});
    };
    files.replace("i2", 0, {&d}, owner);
    EXPECT_THAT(names(), ElementsAre("..1", "..data", "key"));
    EXPECT_EQ(content(), value);
    const int first = ::open((folder + "/key").c_str(), O_RDONLY);
    std::filesystem::create_directories(folder + "/..2");
    std::ofstream(folder + "/..2/key") << "half";
    ASSERT_EQ(::symlink("..2", (folder + "/..next").c_str()), 0);
    const std::string newer = "newer";
    d.value = bytes(newer);
    files.replace("i2", 0, {&d}, owner);
    EXPECT_THAT(names(), ElementsAre("..2", "..data", "key"));
    EXPECT_EQ(content(), newer);
    char old[8];
    EXPECT_EQ(::read(first, old, sizeof old), 4) << "whoever has it open reads the whole of it";
    ::close(first);
    files.remove("i2");
    EXPECT_FALSE(std::filesystem::exists(folder));
    EXPECT_THROW(files.replace("i2", 0, {&d}, owner), sdk::Error);
    files.remove("i1");
    char byte;
    EXPECT_EQ(::read(open_elsewhere, &byte, 1), 0) << "who has it open still finds the value";
    ::close(open_elsewhere);
    EXPECT_TRUE(files.instances().empty());
    files.remove("i1");  // gone is fine
  }
  std::filesystem::remove_all(name);
}

// ---- engines that are gone, slow or talk nonsense ----
// Answers the first request of each connection; "" keeps it open and silent.
class FakeEngine {
 public:
  using Answers = std::function<std::string(std::string_view request)>;
  FakeEngine(const std::string &path, std::string same)
      : FakeEngine(path, [same = std::move(same)](std::string_view) { return same; }) {}
  FakeEngine(const std::string &path, Answers answers) : answers_(std::move(answers)) {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
        ::listen(listener_, 16) != 0)
      ADD_FAILURE() << "no socket at " << path;
    thread_ = std::thread([this] {
      for (int fd; (fd = ::accept(listener_, nullptr, nullptr)) >= 0;) {
        char request[4096];
        const ssize_t got = ::read(fd, request, sizeof request);
        const std::string answer = answers_({request, static_cast<size_t>(std::max<ssize_t>(got, 0))});
        [[maybe_unused]] const ssize_t sent = ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
        if (answer.empty())
          silent_.push_back(fd);
        else
          ::close(fd);
      }
    });
  }
  ~FakeEngine() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    for (const int fd : silent_) ::close(fd);
  }

 private:
  Answers answers_;
  int listener_;
  std::vector<int> silent_;
  std::thread thread_;
};

std::string http(const std::string &body, const std::string &status = "200 OK",
                 const std::string &headers = "") {
  return "HTTP/1.1 " + status + headers +
         "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

class EngineTest : public PluginTest {
 protected:
  std::string socket() const { return (tmp() / "e.sock").string(); }
  sdk::Error error_of(TestCall &call) {
    Engine engine("unix://" + socket());
    try {
      engine.call(sdk::Call(call), "GET", "/containers/json");
    } catch (const sdk::Error &e) {
      return e;
    }
    return {COFFER_OK, ""};
  }
  sdk::Error error_of() {
    TestCall call;
    return error_of(call);
  }
};

TEST_F(EngineTest, GoneIsUnavailableWithTheRemedy) {
  for (int i = 0; i < 2; ++i) {
    const sdk::Error e = error_of();
    EXPECT_EQ(e.status, COFFER_UNAVAILABLE);
    EXPECT_THAT(e.message, HasSubstr(socket()));
    EXPECT_THAT(e.remedy, HasSubstr("systemctl start docker"));
    std::ofstream(socket()) << "a file, no socket";
  }
}

TEST_F(EngineTest, SocketOfOthersIsNotAllowed) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may open every socket";
  const FakeEngine engine(socket(), http("{}"));
  ::chmod(socket().c_str(), 0);
  const sdk::Error e = error_of();
  EXPECT_EQ(e.status, COFFER_PERMISSION_DENIED);
  EXPECT_THAT(e.remedy, HasSubstr("group"));
}

TEST_F(EngineTest, SilentOneEndsWithTheDeadlineAndWithCancellation) {
  const FakeEngine engine(socket(), "");
  TestCall late;
  late.deadline_in(50ms);
  EXPECT_EQ(error_of(late).status, COFFER_DEADLINE_EXCEEDED);
  TestCall cancelled;
  cancelled.cancellable();
  std::thread canceller([&] { cancelled.cancel(); });
  EXPECT_EQ(error_of(cancelled).status, COFFER_CANCELLED);
  canceller.join();
}

TEST_F(EngineTest, SilentOneEndsByItselfForACallerWithoutADeadline) {
  const FakeEngine silent(socket(), "");
  Engine engine("unix://" + socket(), 50);
  TestCall call;
  try {
    engine.call(sdk::Call(call), "GET", "/containers/json");
    ADD_FAILURE() << "it answered";
  } catch (const sdk::Error &e) {
    EXPECT_EQ(e.status, COFFER_UNAVAILABLE);
    EXPECT_THAT(e.message, HasSubstr("does not answer"));
    EXPECT_THAT(e.remedy, HasSubstr("docker ps"));
  }
}

TEST_F(EngineTest, NonsenseIsAnErrorAndNotRepeated) {
  for (const std::string &answer :
       {"SECRET nonsense\r\n\r\n"s, http("SECRET"), http("[1]"),
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nSECRET"s, http(std::string(200'000, '[')),
        http("OK", "200 OK", "\r\nApi-Version: SECRET")}) {
    const FakeEngine engine(socket(), answer);
    const sdk::Error e = error_of();
    EXPECT_NE(e.status, COFFER_OK) << answer.substr(0, 40);
    EXPECT_THAT(e.message, Not(HasSubstr("SECRET")));
    ::unlink(socket().c_str());
  }
}

// What an engine says that speaks API 1.`oldest` to 1.`newest`.
FakeEngine::Answers speaks(int oldest, int newest) {
  return [=](std::string_view request) {
    const std::string header = "\r\nServer: Docker/1 (linux)\r\nApi-Version: 1." + std::to_string(newest);
    if (request.starts_with("GET /_ping ")) return http("OK", "200 OK", header);
    if (request.starts_with("GET /version "))
      return http("{\"MinAPIVersion\":\"1." + std::to_string(oldest) + "\"}", "200 OK", header);
    const int asked = request.starts_with("GET /v1.") ? std::atoi(request.data() + 8) : -1;
    return asked < oldest || asked > newest
               ? http("{\"message\":\"not that version\"}", "400 Bad Request", header)
               : http("OK", "200 OK", header);
  };
}

TEST_F(EngineTest, OldOneIsRefusedByItsVersion) {
  const FakeEngine engine(socket(), speaks(12, 40));
  const sdk::Error e = error_of();
  EXPECT_EQ(e.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(e.message, HasSubstr("1.40"));
  EXPECT_THAT(e.message, HasSubstr("1.41"));
}

TEST_F(EngineTest, WhatIsNoEngineIsSaidToBeNone) {
  const FakeEngine engine(socket(), http("OK"));
  const sdk::Error e = error_of();
  EXPECT_EQ(e.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(e.message, HasSubstr("no Docker engine"));
}

TEST_F(EngineTest, NewOnesAreSpokenToInWhatBothKnow) {
  const auto spoken = [&](int oldest, int newest) {
    const FakeEngine engine(socket(), speaks(oldest, newest));
    TestCall call;
    const std::string api = Engine("unix://" + socket()).version(sdk::Call(call)).api;
    ::unlink(socket().c_str());
    return api;
  };
  EXPECT_EQ(spoken(12, 41), "1.41");
  EXPECT_EQ(spoken(24, 43), "1.43");
  EXPECT_EQ(spoken(24, 47), "1.47");
  EXPECT_EQ(spoken(44, 99), "1.47");
  EXPECT_EQ(spoken(60, 99), "1.60") << "what it still speaks";
}

TEST(Refusal, SaysTheEnginesSentenceAndTheRemedy) {
  const auto refused = [](int status, const std::string &message) {
    return refusal({status, "{\"message\":\"" + message + "\"}"}, "the container cannot be started");
  };
  EXPECT_EQ(refused(404, "No such container").status, COFFER_NOT_FOUND);
  EXPECT_EQ(refused(500, "write /var/lib: no space left on device").status, COFFER_RESOURCE_EXHAUSTED);
  const sdk::Error port =
      refused(500, "driver failed: Bind for 0.0.0.0:80 failed: port is already allocated");
  EXPECT_EQ(port.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(port.remedy, HasSubstr("-p"));
  EXPECT_THAT(refusal({500, "<html>"}, "it").message, HasSubstr("status 500"));
  EXPECT_LT(refused(500, std::string(100'000, 'x')).message.size(), 1000u);
}

TEST_F(EngineTest, EndpointMustBeALocalSocket) {
  for (const char *bad :
       {"", "unix://", "unix:///", "tcp://127.0.0.1:2375", "/var/run/docker.sock", "unix://relative"})
    EXPECT_FALSE(Engine::endpoint_ok(bad)) << bad;
  EXPECT_FALSE(Engine::endpoint_ok("unix:///" + std::string(107, 'x')));
  EXPECT_TRUE(Engine::endpoint_ok("unix:///var/run/docker.sock"));
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_RUNTIME_ID); }
