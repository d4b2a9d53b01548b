#include "home.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <sstream>

#include "files.h"

namespace coffer::cli {
namespace {

namespace fs = std::filesystem;

std::string environment(const char *name) {
  const char *v = std::getenv(name);
  return v ? v : "";
}

fs::path user_config() {
  const std::string home = environment("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".config/coffer/engine.toml";
}

Result<void> make_folder(const fs::path &dir) {
  std::error_code e;
  fs::create_directories(dir.parent_path(), e);
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    return fail(ErrorCode::kPermissionDenied,
                "cannot make folder " + dir.string() + ": " + std::strerror(errno));
  return {};
}

// Lines of 64 hex digits.
Result<std::vector<PublicKey>> read_pins(const fs::path &file) {
  auto text = read_trusted_file(file);
  if (!text && text.error().code != ErrorCode::kNotFound) return std::unexpected(text.error());
  std::istringstream in(text ? *text : "");
  std::vector<PublicKey> out;
  std::string line;
  while (std::getline(in, line)) {
    const auto bytes = unhex(line);
    if (!bytes || bytes->size() != 32)
      return fail(ErrorCode::kDataLoss, file.string() + ": a line is not a public key");
    out.push_back(to_array<32>(*bytes));
  }
  if (out.empty())
    return fail(ErrorCode::kFailedPrecondition, file.string() + " is missing or empty",
                "Run `coffer init` to finish setting up.");
  return out;
}

}  // namespace

Result<Home> Home::find(const std::string &engine_option) {
  if (!engine_option.empty()) return Home(fs::absolute(engine_option));
  if (const std::string home = environment("COFFER_HOME"); !home.empty()) {
    const fs::path file = fs::absolute(home) / "engine.toml";
    if (!fs::exists(file))
      return fail(ErrorCode::kFailedPrecondition, "COFFER_HOME has no engine.toml: " + file.string(),
                  "Run `coffer init`.");
    return Home(file);
  }
  for (const fs::path &file : {user_config(), fs::path("/etc/coffer/engine.toml")}) {
    std::error_code e;
    if (!file.empty() && fs::exists(file, e)) return Home(file);
  }
  return fail(ErrorCode::kFailedPrecondition,
              "Coffer is not set up on this computer: no engine.toml was found", "Run `coffer init`.");
}

Home Home::place(const std::string &engine_option) {
  if (!engine_option.empty()) return Home(fs::absolute(engine_option));
  if (const std::string home = environment("COFFER_HOME"); !home.empty())
    return Home(fs::absolute(home) / "engine.toml");
  const fs::path mine = user_config();
  return Home(mine.empty() ? fs::path("/etc/coffer/engine.toml") : mine);
}

Result<void> Home::create() const {
  COFFER_CHECK(make_folder(dir()));
  for (const char *name : {"api", "host", "pins", "client"}) COFFER_CHECK(make_folder(dir() / name));
  for (const char *name : {"api/writer.key", "api/digest.key", "api/token.root", "host/host.key"}) {
    const auto made = write_new_file(dir() / name, random_secret(32).reveal(), 0400);
    if (!made && made.error().code != ErrorCode::kAlreadyExists) return made;
  }
  COFFER_TRY(const SecretBytes seed, writer_seed());
  COFFER_TRY(const SigningKey writer, SigningKey::from_seed(seed.reveal()));
  const auto pinned = write_new_file(dir() / "pins/writers", as_bytes(hex(writer.public_key()) + "\n"), 0444);
  if (!pinned && pinned.error().code != ErrorCode::kAlreadyExists) return pinned;
  return {};
}

Result<void> Home::write_engine(std::string_view text) const {
  const auto made = write_new_file(engine_file_, as_bytes(text), 0600);
  if (!made && made.error().code != ErrorCode::kAlreadyExists) return made;
  return {};
}

Result<void> Home::pin(const PublicKey &identity) const {
  const auto made = write_new_file(dir() / "pins/identity", as_bytes(hex(identity) + "\n"), 0444);
  if (made || made.error().code != ErrorCode::kAlreadyExists) return made;
  COFFER_TRY(const auto there, read_pins(dir() / "pins/identity"));
  if (there.front() != identity)
    return fail(ErrorCode::kPermissionDenied, "the key service is not the one pinned in pins/identity",
                "Its store was replaced: put the old one back.");
  return {};
}

Result<SecretBytes> Home::key(std::string_view name) const { return read_key_file(dir() / name); }

Result<void> Home::create_client() const {
  COFFER_CHECK(make_folder(dir()));
  for (const char *name : {"pins", "client"}) COFFER_CHECK(make_folder(dir() / name));
  return {};
}

Result<PublicKey> Home::identity() const {
  COFFER_TRY(const auto pinned, read_pins(dir() / "pins/identity"));
  return pinned.front();
}

Result<std::vector<PublicKey>> Home::writers() const { return read_pins(dir() / "pins/writers"); }

Result<Pins> Home::pins() const {
  Pins out;
  COFFER_TRY(out.writers, writers());
  COFFER_TRY(out.identity, identity());
  return out;
}

Result<void> Home::lock_host() const {
  const std::string file = (dir() / "host/agent.lock").string();
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return fail(errno == EACCES ? ErrorCode::kPermissionDenied : ErrorCode::kUnavailable,
                "cannot open " + file + ": " + std::strerror(errno));
  // More than once: who only asks whether an agent runs (Home::agent_runs) has it for a moment, too.
  for (int tries = 0; tries < 10; ++tries) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
    ::usleep(10'000);
  }
  return fail(ErrorCode::kFailedPrecondition, "an agent runs already for " + dir().string(),
              "Stop that one first, or leave it: one is enough.");
}

bool Home::agent_runs() const {
  const int fd = ::open((dir() / "host/agent.lock").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return false;
  // Shared, and gone with the descriptor: two who look never meet.
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held;
}

bool Home::restoring() const {
  std::error_code e;
  return fs::exists(restore_marker(), e) || e;
}

Result<void> Home::check_seen(const App &app) const {
  const fs::path file = dir() / "client/seen";
  std::ostringstream kept;
  bool known = false;
  {
    auto text = read_trusted_file(file);
    if (!text && text.error().code != ErrorCode::kNotFound) return std::unexpected(text.error());
    std::istringstream in(text ? *text : "");
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
      std::istringstream fields(line);
      std::string name, id, rest;
      uint32_t epoch = 0;
      if (!(fields >> name >> id >> epoch) || fields >> rest || id.size() != 2 * sizeof(AppId))
        return fail(ErrorCode::kDataLoss,
                    file.string() + ":" + std::to_string(number) + ": expected NAME APP_ID EPOCH",
                    "Correct or remove that line; an App without a line is trusted as it is found.");
      if (name != app.name()) {
        kept << name << ' ' << id << ' ' << epoch << '\n';
        continue;
      }
      const std::string now = hex(app.id());
      if (id != now && !(app.key.replaces && hex(*app.key.replaces) == id))
        return fail(ErrorCode::kDataLoss,
                    "App " + app.name() +
                        " is not the one seen before under this name, and does not say it replaces it",
                    "If that is right, remove its line from " + file.string() + ".");
      if (id == now && app.key.epoch < epoch)
        return fail(ErrorCode::kDataLoss,
                    "App " + app.name() + ": its key is of epoch " + std::to_string(app.key.epoch) +
                        ", but epoch " + std::to_string(epoch) + " has been seen",
                    "The vault was rolled back: put the newer copy back, or restore a backup.");
      known = id == now && app.key.epoch == epoch;
    }
  }
  if (known) return {};
  // Two at once: the later one wins, and the other App is remembered again at its next use.
  kept << app.name() << ' ' << hex(app.id()) << ' ' << app.key.epoch << '\n';
  return replace_file(file, as_bytes(kept.str()), 0600);
}

}  // namespace coffer::cli
