// measure_server: server mode from outside.  HOME is that of a user of the API; one line comes out of each:
//   start DAEMON_HOME PROGRAM TIMES      ms from before the exec to READY=1: median, most
//   writes HOME PEER_DB ROUNDS THREADS API_PID KEYS_PID
//       sealed writes a second, the peer's commits a second, ratio; ms of processor time that a write costs
//       the clients here, coffer-api and coffer-keys; ms of one fdatasync of 4 KiB beside PEER_DB; % of one
//       core that others took meanwhile
//   list HOME APP SECONDS API_PID KEYS_PID AGENT_PID
//       ms from when each was due, at 200 requests/s: p50, p99, most; % of one core that others took
//       meanwhile
//   polls HOME APP MACHINE POLLS API_PID
//       MB of coffer-api while they wait, % of one core that it takes, ms of one more request ("none": it has
//       no answer within 10 s), how many of them did not wait
// A round of writes: 16 clients, each with an App of its own, make 25 writes each, one after the other on one
// connection, of one secret that was sealed before.  Then the peer makes as many commits in THREADS threads:
// SQLite, WAL, synchronous=FULL, one row of the size of a sealed record each.  Rates are medians, the ratio
// is the median of the rounds' ratios.  A first round of both is not counted.
#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "api/client/http_control.h"
#include "api/json.h"
#include "bench/load.h"
#include "cli/home.h"
#include "coffer/config/engine_config.h"
#include "coffer/crypto/primitives.h"
#include "coffer/posix.hpp"

namespace {

using namespace coffer;
using namespace coffer::bench;
using namespace std::chrono_literals;

constexpr int kApps = 16, kWritesOfRound = 25, kSecretsOfApp = 20, kRate = 200, kListClients = 16;

[[noreturn]] void give_up(const std::string &what) {
  std::fprintf(stderr, "measure-server: %s\n", what.c_str());
  std::_Exit(1);  // other threads may be at work
}
template <class T>
T must(Result<T> r) {
  if (!r) give_up(r.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(r);
}

double median(std::vector<double> v) {
  std::ranges::sort(v);
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

// The processor time that a process has used, in seconds.
double processor_time(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  unsigned long user = 0, system = 0;
  const size_t name_end = line.rfind(')');
  if (name_end == line.npos ||
      std::sscanf(line.c_str() + name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                  &system) != 2)
    give_up("no process " + std::to_string(pid));
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// The same of all processes.
double processor_time_of_all() {
  std::ifstream in("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0;
  in >> cpu >> user >> nice >> system;
  return (user + nice + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// ---- who asks ----

struct User {
  std::string url;
  http::Headers headers;
  std::unique_ptr<coffer::api::ApiClient> api;
  std::unique_ptr<coffer::api::HttpControl> control;

  explicit User(const std::string &dir) {
    const cli::Home home = must(cli::Home::find(dir + "/engine.toml"));
    const EngineConfig config = must(read_engine_config(home.engine_file()));
    std::string token;
    std::ifstream(home.dir() / "user.token") >> token;
    url = config.api.url;
    headers.add("Authorization", "Bearer " + token);
    api = must(coffer::api::ApiClient::open(
        {.url = url, .token = SecretBytes::copy_of(as_bytes(token)), .identity = must(home.identity())}));
    control = std::make_unique<coffer::api::HttpControl>(*api);
  }
  std::unique_ptr<http::Client> client() const { return must(http::Client::open({.url = url})); }
  http::Call get(const std::string &target) const {
    return {.target = target, .headers = headers, .repeatable = true};
  }
};

// ---- start ----

int start(const std::string &home, const std::string &program, int times) {
  struct stat owner{};
  if (::stat(home.c_str(), &owner) != 0) give_up("no folder " + home);
  const std::string name = "@coffer-measure-" + std::to_string(::getpid());
  const sdk::Fd notified(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);  // abstract: open to every user
  if (::bind(notified.get(), reinterpret_cast<const sockaddr *>(&address),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())) != 0)
    give_up("no socket to be notified at");

  std::vector<double> ms;
  for (int i = 0; i < times; ++i) {
    const auto begin = http::Clock::now();
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setenv("HOME", home.c_str(), 1);
      ::setenv("COFFER_HOME", home.c_str(), 1);
      ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
      const int log = ::open("/dev/null", O_WRONLY);
      ::dup2(log, STDERR_FILENO);
      if (::setgroups(0, nullptr) == 0 && ::setresgid(owner.st_gid, owner.st_gid, owner.st_gid) == 0 &&
          ::setresuid(owner.st_uid, owner.st_uid, owner.st_uid) == 0)
        ::execl(program.c_str(), program.c_str(), nullptr);
      ::_exit(127);
    }
    char said[64] = {};
    for (pollfd p{notified.get(), POLLIN, 0}; !std::string_view(said).starts_with("READY=1");) {
      std::memset(said, 0, sizeof said);
      if (::poll(&p, 1, 10'000) <= 0 || ::recv(notified.get(), said, sizeof said - 1, 0) <= 0) {
        ::kill(pid, SIGKILL);
        give_up(program + " does not get ready");
      }
    }
    ms.push_back(seconds(http::Clock::now() - begin) * 1'000);
    int status = 0;
    ::kill(pid, SIGTERM);
    ::waitpid(pid, &status, 0);
    if (status != 0) give_up(program + " did not end well");
  }
  std::printf("%.1f %.1f\n", median(ms), std::ranges::max(ms));
  return 0;
}

// ---- writes ----

struct Writer {
  std::string target;
  std::vector<std::string> bodies;  // one a write
  std::unique_ptr<http::Client> client;
};

// `record_size`: of one sealed secret.
std::vector<Writer> writers(const User &user, int writes, size_t &record_size) {
  std::vector<Writer> out;
  for (int a = 0; a < kApps; ++a) {
    const App app = must(user.control->create_app("writes-" + std::to_string(a)));
    const SecretBytes digest_key = must(user.control->digest_key(app));
    Writer &w = out.emplace_back("/v1/apps/" + app.name() + "/secrets/sealed", std::vector<std::string>(),
                                 user.client());
    for (int i = 0; i < writes; ++i) {
      Sealer sealer = must(Sealer::create(app.key, digest_key));
      const std::string value = hex(random_array<20>());
      const SealedSecret sealed = must(
          sealer.seal("SECRET_" + std::to_string(i % kSecretsOfApp), SecretBytes::copy_of(as_bytes(value))));
      record_size = sealed.record.size();
      JsonWriter j;
      j.begin_object().key("set").begin_array();
      api::write(j, sealed);
      j.end_array().end_object();
      w.bodies.push_back(j.str());
    }
  }
  return out;
}

void write_round(const User &user, std::vector<Writer> &all, int round) {
  std::vector<std::jthread> threads;
  for (Writer &w : all)
    threads.emplace_back([&user, &w, round] {
      for (int i = round * kWritesOfRound; i < (round + 1) * kWritesOfRound; ++i) {
        const auto answer = w.client->call({.method = "POST",
                                            .target = w.target,
                                            .headers = user.headers,
                                            .body = w.bodies[static_cast<size_t>(i)]});
        if (!answer || answer->status != 200 || !http::view(answer->body).contains("\"changed\":[\"SECRET_"))
          give_up("a write was not done: " +
                  (answer ? std::string(http::view(answer->body)) : answer.error().message));
      }
    });
}

class Peer {
 public:
  Peer(const std::string &file, size_t threads, size_t record_size) : record_(record_size, 'x') {
    for (size_t i = 0; i < threads; ++i) {
      auto &db = *connections_.emplace_back(
          std::make_unique<SQLite::Database>(file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, 30'000));
      db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
      db.exec("CREATE TABLE IF NOT EXISTS record(id INTEGER PRIMARY KEY, value BLOB NOT NULL)");
    }
  }
  void commit(int commits) {
    std::vector<std::jthread> threads;
    const int each = commits / static_cast<int>(connections_.size());
    for (const auto &db : connections_)
      threads.emplace_back([this, &db, each] {
        SQLite::Statement insert(*db, "INSERT INTO record(value) VALUES(?)");
        for (int i = 0; i < each; ++i) {
          insert.bindNoCopy(1, record_.data(), static_cast<int>(record_.size()));
          insert.exec();
          insert.reset();
        }
      });
  }

 private:
  std::string record_;
  std::vector<std::unique_ptr<SQLite::Database>> connections_;
};

// What a sync costs here and now, in ms.  The peer does little else, so whatever slows it down makes the
// ratio better than it is.
double sync_time(const std::string &file) {
  const sdk::Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::vector<char> page(4096, 'x');
  std::vector<double> ms;
  for (int i = 0; i < 30; ++i) {
    if (::pwrite(fd.get(), page.data(), page.size(), 0) != 4096) give_up("cannot write " + file);
    const auto begin = http::Clock::now();
    if (::fdatasync(fd.get()) != 0) give_up("cannot sync " + file);
    ms.push_back(seconds(http::Clock::now() - begin) * 1'000);
  }
  return median(ms);
}

int writes(const User &user, const std::string &peer_file, int rounds, size_t peer_threads, pid_t api,
           pid_t keys) {
  constexpr int kWrites = kApps * kWritesOfRound;
  size_t record_size = 0;
  std::vector<Writer> all = writers(user, (rounds + 1) * kWritesOfRound, record_size);
  Peer peer(peer_file, peer_threads, record_size);
  std::vector<double> ours, peers, ratios, syncs;
  double processor[3] = {}, others = 0, time = 0;
  for (int round = 0; round <= rounds; ++round) {
    const pid_t who[] = {::getpid(), api, keys};
    double before[3];
    syncs.push_back(sync_time(peer_file + ".sync"));
    for (int i = 0; i < 3; ++i) before[i] = processor_time(who[i]);
    const double all_before = processor_time_of_all();
    const auto begin = http::Clock::now();
    write_round(user, all, round);
    const auto between = http::Clock::now();
    double used[3], of_all = processor_time_of_all() - all_before;
    for (int i = 0; i < 3; ++i) of_all -= used[i] = processor_time(who[i]) - before[i];
    const auto peer_begin = http::Clock::now();
    peer.commit(kWrites);
    if (round == 0) continue;
    for (int i = 0; i < 3; ++i) processor[i] += used[i];
    others += of_all;
    time += seconds(between - begin);
    ours.push_back(kWrites / seconds(between - begin));
    peers.push_back(kWrites / seconds(http::Clock::now() - peer_begin));
    ratios.push_back(ours.back() / peers.back());
  }
  std::printf("%.0f %.0f %.2f", median(ours), median(peers), median(ratios));
  for (const double p : processor) std::printf(" %.2f", p * 1'000 / (kWrites * rounds));
  std::printf(" %.2f %.0f\n", median(syncs), std::max(0.0, others) / time * 100);
  return 0;
}

// ---- list ----

int list(const User &user, const std::string &app, int time, const std::vector<pid_t> &daemons) {
  const http::Call call = user.get("/v1/apps/" + app + "/secrets");
  std::vector<std::unique_ptr<http::Client>> clients;
  for (int i = 0; i < kListClients; ++i) clients.push_back(user.client());
  const http::Answer expected = must(clients[0]->call(call));
  const auto secrets = must(user.control->secrets(must(user.control->app(app))));
  if (secrets.all.size() != 100 || !std::ranges::all_of(secrets.all, [](const SecretView &s) {
        return s.status == SecretStatus::kDeployed;
      }))
    give_up("App " + app + " has not 100 secrets that a Machine runs with");
  const auto ask = [&](int client) {
    const auto answer = clients[static_cast<size_t>(client)]->call(call);
    if (!answer) give_up(answer.error().message);
    if (answer->body != expected.body) give_up("a list was not like the first one");
  };
  at_rate(kListClients, kRate, kRate, ask);  // to warm up
  const auto of_others = [&] {
    double all = processor_time_of_all() - processor_time(::getpid());
    for (const pid_t pid : daemons) all -= processor_time(pid);
    return all;
  };
  const double before = of_others();
  const std::vector<double> ms = at_rate(kListClients, kRate, kRate * time, ask);
  std::printf("%.2f %.2f %.2f %.0f\n", percentile(ms, 50), percentile(ms, 99), ms.back(),
              std::max(0.0, of_others() - before) / time * 100);
  return 0;
}

// ---- polls ----

int polls(const User &user, const std::string &app, const std::string &machine, int n, pid_t api) {
  http::Call call = user.get("/v1/apps/" + app + "/machines/" + machine + "/wait?state=stopped&timeout=60");
  call.timeout = 70s;
  http::Call other = user.get("/v1/apps/" + app + "/secrets");
  other.timeout = 10s;
  const auto client = user.client();
  const LongPolls waiting(user.url, call, n, 10ms);  // it is the waiting that counts, not a crowd
  // Each of them has a thread of the API.
  const auto end = http::Clock::now() + 20s;
  while (status_of(api, "Threads") < n + 2 && waiting.ended() == 0 && http::Clock::now() < end)
    std::this_thread::sleep_for(10ms);
  const double before = processor_time(api);
  const auto begin = http::Clock::now();
  std::this_thread::sleep_for(3s);  // nobody asks for anything
  const double used = (processor_time(api) - before) / seconds(http::Clock::now() - begin);
  const auto asked = http::Clock::now();
  const auto answer = client->call(other);
  const double ms = seconds(http::Clock::now() - asked) * 1'000;
  const long kb = status_of(api, "VmRSS");
  if (waiting.ended() == 0 && status_of(api, "Threads") < n + 2) give_up("not all requests were taken");
  if (const size_t ended = waiting.ended())
    std::fprintf(stderr, "measure-server: %zu requests did not wait: %s\n", ended,
                 waiting.first_end().c_str());
  std::printf("%.1f %.0f %s %zu\n", static_cast<double>(kb) / 1024, used * 100,
              answer && answer->ok() ? std::to_string(ms).c_str() : "none", waiting.ended());
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  const std::vector<std::string> a(argv + 1, argv + argc);
  const auto number = [&](size_t i) { return std::atoi(a[i].c_str()); };
  const std::string what = a.empty() ? "" : a[0];
  if (what == "start" && a.size() == 4) return start(a[1], a[2], number(3));
  if (what == "writes" && a.size() == 7)
    return writes(User(a[1]), a[2], number(3), static_cast<size_t>(number(4)), number(5), number(6));
  if (what == "list" && a.size() == 7)
    return list(User(a[1]), a[2], number(3), {number(4), number(5), number(6)});
  if (what == "polls" && a.size() == 6) return polls(User(a[1]), a[2], a[3], number(4), number(5));
  std::fputs("usage: measure-server start|writes|list|polls ...; see measure_server.cc\n", stderr);
  return 2;
}
