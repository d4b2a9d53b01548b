// Audit logs: appended by many, killed in the middle, and changed by somebody afterwards.
#include "coffer/audit/audit_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"

namespace coffer {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

AuditEntry entry(std::string action, std::vector<std::string> names = {}) {
  AuditEntry e;
  e.who = "ann@laptop";
  e.action = std::move(action);
  e.app = "web";
  e.names = std::move(names);
  return e;
}

// Another process: `count` entries of `names` long names; says each number on standard output once it is
// acknowledged.  Ends with the error's code.
int append_in_child(const char *file, int count, int names) {
  for (int i = 0; i < count; ++i) {
    const auto at = AuditLog(file).append(
        entry("set", std::vector<std::string>(static_cast<size_t>(names), std::string(250, 'N'))));
    if (!at) return static_cast<int>(at.error().code);
    if (::write(STDOUT_FILENO, &at->number, sizeof at->number) != sizeof at->number) return 1;
  }
  return 0;
}

class AuditLogTest : public testing::Test {
 protected:
  AuditLogTest() {
    std::string name = (fs::temp_directory_path() / "coffer-audit-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    folder_ = name;
  }
  ~AuditLogTest() override { fs::remove_all(folder_); }

  fs::path file(const std::string &log) const { return folder_ / "audit" / (log + ".log"); }
  AuditLog log(const std::string &name) const {
    return AuditLog(file(name), [] { return uint64_t{1795574013123}; });
  }
  std::vector<AuditFile> both() const { return {{"api", file("api")}, {"keys", file("keys")}}; }

  static void must(const auto &result) { ASSERT_TRUE(result) << result.error().message; }
  void append(const std::string &to, int n) {
    for (int i = 0; i < n; ++i) must(log(to).append(entry("set", {"A" + std::to_string(i)})));
  }
  Checkpoint head(const std::string &of) {
    const auto at = log(of).append(AuditEntry{});
    EXPECT_TRUE(at);
    return at.value_or(Checkpoint{});
  }
  // What API and key service do after a command.
  void exchange() {
    AuditEntry e = entry("checkpoint");
    e.other = {"api", head("api")};
    const auto keys = log("keys").append(e);
    must(keys);
    e.other = {"keys", *keys};
    must(log("api").append(e, AuditLog::Sync::kLater));
  }

  // `before`: in the child, before it becomes another program.  A fork alone would not do: it lacks the
  // arena.
  static pid_t start_child(
      const fs::path &file, int count, int names, int to, const std::function<void()> &before = [] {}) {
    const std::string n = std::to_string(count), many = std::to_string(names);
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    before();
    ::dup2(to, STDOUT_FILENO);
    ::execl("/proc/self/exe", "append", "--append", file.c_str(), n.c_str(), many.c_str(), nullptr);
    ::_exit(127);
  }

  std::vector<std::string> lines(const std::string &of) const {
    std::ifstream in(file(of));
    std::vector<std::string> out;
    for (std::string l; std::getline(in, l);) out.push_back(l);
    return out;
  }
  void write(const std::string &to, const std::vector<std::string> &all) const {
    std::ofstream out(file(to), std::ios::trunc);
    for (const std::string &l : all) out << l << '\n';
  }
  // "api 3 was changed"
  std::vector<std::string> findings() const {
    const auto report = verify_audit(both());
    EXPECT_TRUE(report);
    std::vector<std::string> out;
    if (report)
      for (const auto &f : report->findings)
        out.push_back(f.log + " " + std::to_string(f.entry) + " " + f.problem);
    return out;
  }

  fs::path folder_;
};

TEST_F(AuditLogTest, ALineIsTheOneOfTheDocumentation) {
  AuditEntry e = entry("set", {"A", "B"});
  e.version = 3;
  must(log("api").append(e));
  const std::string hashed =
      R"({"n":1,"time":"2026-11-25T02:33:33.123Z","who":"ann@laptop","action":"set","app":"web",)"
      R"("names":["A","B"],"version":3,"outcome":"ok","prev":")" +
      std::string(64, '0');
  const Hash hash = sha256(Encoder().text("coffer audit v1").bytes(Hash{}).text(hashed).take());
  EXPECT_THAT(lines("api"), ElementsAre(hashed + R"(","hash":")" + hex(hash) + "\"}"));
  EXPECT_EQ(hex(hash), "e98f7d9fea9135edfb1370767821609e59bf791224645c9c89a308e349e5f81e");
  struct stat st{};
  ASSERT_EQ(::stat(file("api").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  ASSERT_EQ(::stat(file("api").parent_path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
}

TEST_F(AuditLogTest, EveryFieldComesBack) {
  AuditEntry e = entry("open", {"A"});
  e.app_id = "00ff";
  e.machine = "m1";
  e.instance = "i1";
  e.host = "aa";
  e.host_name = "alpha";
  e.count = 4;
  e.spec = 5;
  e.version = 6;
  e.release = 7;
  e.outcome = "expired";
  e.other = {"keys", {8, sha256({})}};
  must(log("api").append(e));
  const auto back = decode_audit_line(lines("api").at(0));
  must(back);
  const AuditEntry &b = back->entry;
  EXPECT_EQ(std::tie(b.who, b.action, b.app, b.app_id, b.machine, b.instance, b.host, b.host_name, b.names,
                     b.outcome),
            std::tie(e.who, e.action, e.app, e.app_id, e.machine, e.instance, e.host, e.host_name, e.names,
                     e.outcome));
  EXPECT_EQ(std::tie(b.count, b.spec, b.version, b.release), std::tie(e.count, e.spec, e.version, e.release));
  ASSERT_TRUE(b.other);
  EXPECT_EQ(b.other->log, "keys");
  EXPECT_EQ(b.other->at, e.other->at);
}

TEST_F(AuditLogTest, WhatOthersSayStaysOnOneBoundedLine) {
  AuditEntry e = entry("token");
  e.machine = "m1\n{\"n\":2}\x1b[31m\"\\\x7f" + std::string(100000, 'x');
  e.who = "\xff\xfe\xc2\x9b";
  must(log("api").append(e));
  const auto all = lines("api");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_LT(all[0].size(), 1500u);
  for (const char c : all[0]) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  EXPECT_TRUE(decode_audit_line(all[0]));
  EXPECT_THAT(findings(), IsEmpty());
}

TEST_F(AuditLogTest, TenThousandNamesAreAllThereInBoundedLines) {
  std::vector<std::string> names;
  for (int i = 0; i < 10000; ++i) names.push_back("NAME_" + std::string(200, 'X') + std::to_string(i));
  must(log("api").append(entry("set", names)));
  must(log("api").append(entry("set", {"LAST"})));
  std::vector<std::string> back;
  const auto all = lines("api");
  for (const std::string &l : all) {
    EXPECT_LT(l.size(), 32u * 1024);
    const auto e = decode_audit_line(l);
    must(e);
    back.insert(back.end(), e->entry.names.begin(), e->entry.names.end());
    EXPECT_EQ(e->more, e->number + 1 < all.size());
  }
  names.push_back("LAST");
  EXPECT_EQ(back, names);
  EXPECT_THAT(findings(), IsEmpty());
}

TEST_F(AuditLogTest, EightProcessesAppendAtOnceAndTheChainHolds) {
  constexpr int kProcesses = 8, kEach = 100;
  const int nothing = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) children.push_back(start_child(file("api"), kEach, 2, nothing));
  for (const pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  ::close(nothing);
  const auto all = lines("api");
  ASSERT_EQ(all.size(), size_t{kProcesses * kEach});
  for (size_t i = 0; i < all.size(); ++i) {
    const auto e = decode_audit_line(all[i]);
    must(e);
    ASSERT_EQ(e->number, i + 1);
  }
  EXPECT_THAT(findings(), IsEmpty());
}

TEST_F(AuditLogTest, ThreadsAppendToOneLogAtOnceAndTheChainHolds) {
  constexpr int kThreads = 8, kEach = 60;
  const AuditLog one = log("api");
  std::vector<std::vector<uint64_t>> numbers(kThreads);
  {
    std::vector<std::jthread> threads;
    for (auto &mine : numbers)
      threads.emplace_back([&] {
        for (int i = 0; i < kEach; ++i) {
          must(one.ready());
          const auto at =
              one.append(entry("set", {"A"}), i % 3 ? AuditLog::Sync::kNow : AuditLog::Sync::kLater);
          must(at);
          mine.push_back(at->number);
        }
      });
    append("api", 20);  // by another one
  }
  std::set<uint64_t> all;
  for (const auto &mine : numbers) {
    EXPECT_TRUE(std::ranges::is_sorted(mine));
    all.insert(mine.begin(), mine.end());
  }
  EXPECT_EQ(all.size(), size_t{kThreads * kEach});
  EXPECT_EQ(lines("api").size(), size_t{kThreads * kEach + 20});
  EXPECT_THAT(findings(), IsEmpty());
}

TEST_F(AuditLogTest, ALogThatIsKeptOpenSeesWhatBecomesOfItsFile) {
  const AuditLog kept = log("api");
  must(kept.append(entry("set", {"A"})));
  append("api", 1);  // by another one
  must(kept.ready());
  EXPECT_EQ(kept.append(entry("set", {"B"}))->number, 3u);
  EXPECT_THAT(findings(), IsEmpty());
  // Moved away, as one does to begin anew; and put back.
  fs::rename(file("api"), folder_ / "old");
  must(kept.ready());
  EXPECT_EQ(kept.append(entry("set", {"C"}))->number, 1u);
  fs::rename(folder_ / "old", file("api"));
  EXPECT_EQ(kept.append(entry("set", {"D"}))->number, 4u);
  EXPECT_THAT(findings(), IsEmpty());
  // A tail that was cut is not made up for: the chain goes on from what is there.
  auto all = lines("api");
  all.pop_back();
  write("api", all);
  EXPECT_EQ(kept.append(entry("set", {"E"}))->number, 4u);
  ::chmod(file("api").c_str(), 0666);
  EXPECT_THAT(kept.ready().error().message, HasSubstr("can be changed by others"));
  EXPECT_FALSE(kept.append(entry("set", {"F"})));
  EXPECT_EQ(lines("api").size(), 4u);
}

// Long lines, so that a kill can hit in the middle of one.
TEST_F(AuditLogTest, KillInMidAppendLosesNothingThatWasAcknowledged) {
  std::mt19937 random(7);
  uint64_t acknowledged = 0;
  for (int round = 0; round < 40; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
    const pid_t pid = start_child(file("api"), 1 << 20, 400, pipe[1]);
    ::close(pipe[1]);
    uint64_t number = 0;
    ASSERT_EQ(::read(pipe[0], &number, sizeof number), ssize_t{sizeof number});
    ::usleep(random() % 5000);
    ::kill(pid, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status));
    do acknowledged = number;
    while (::read(pipe[0], &number, sizeof number) == sizeof number);
    ::close(pipe[0]);
    EXPECT_THAT(findings(), IsEmpty());
    EXPECT_GE(head("api").number, acknowledged);
  }
}

TEST_F(AuditLogTest, ATornLineIsCutOffAndTheLogSaysSo) {
  append("api", 3);
  const auto whole = lines("api");
  for (const std::string &torn : {whole[2].substr(0, 40), whole[2], std::string(5000, '\0') + "}\n"}) {
    write("api", whole);
    std::ofstream(file("api"), std::ios::app) << torn;
    if (torn.back() != '\n') {
      const auto before = verify_audit(both());
      must(before);
      EXPECT_THAT(before->findings, IsEmpty());
      ASSERT_EQ(before->notices.size(), 1u);
      EXPECT_EQ(before->notices[0].entry, 4u);
    }
    append("api", 1);
    const auto report = verify_audit(both());
    must(report);
    EXPECT_THAT(report->findings, IsEmpty());
    ASSERT_EQ(report->notices.size(), 1u);
    EXPECT_EQ(report->notices[0].entry, 4u);
    EXPECT_THAT(report->notices[0].problem, HasSubstr(std::to_string(torn.size()) + " bytes of a torn line"));
    EXPECT_EQ(report->logs[0].entries, 5u);
  }
}

TEST_F(AuditLogTest, ALogWhoseEndWasChangedIsNotWrittenOn) {
  append("api", 3);
  auto all = lines("api");
  all[2][60] ^= 1;
  write("api", all);
  const auto ready = log("api").ready();
  const auto appended = log("api").append(entry("set"));
  ASSERT_FALSE(ready);
  ASSERT_FALSE(appended);
  EXPECT_EQ(ready.error().code, ErrorCode::kDataLoss);
  EXPECT_EQ(appended.error().code, ErrorCode::kDataLoss);
  EXPECT_THAT(ready.error().message, HasSubstr("api.log"));
  EXPECT_EQ(lines("api"), all);
}

// ---- tampering ----

TEST_F(AuditLogTest, AnUntouchedPairOfLogsIsSoundAndCoveredUntilTheLastExchange) {
  append("api", 5);
  append("keys", 2);
  exchange();
  append("api", 2);
  append("keys", 1);
  const auto report = verify_audit(both());
  must(report);
  EXPECT_THAT(report->findings, IsEmpty());
  EXPECT_THAT(report->notices, IsEmpty());
  ASSERT_EQ(report->logs.size(), 2u);
  EXPECT_EQ(report->logs[0].entries, 8u);
  EXPECT_EQ(report->logs[0].covered, 5u);
  EXPECT_EQ(report->logs[1].entries, 4u);
  EXPECT_EQ(report->logs[1].covered, 3u);
}

TEST_F(AuditLogTest, EachKindOfTamperingIsFoundAndTheEntryIsNamed) {
  append("api", 8);
  exchange();
  append("api", 1);
  const std::vector<std::string> good = lines("api"), keys = lines("keys");
  ASSERT_EQ(good.size(), 10u);
  using Lines = std::vector<std::string>;
  // The attacker's best: everything behind the change is chained anew.
  const auto rewritten = [&](Lines all, size_t from) {
    fs::remove(file("forged"));
    write("forged", Lines(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(from)));
    for (size_t i = from; i < all.size(); ++i) must(log("forged").append(decode_audit_line(all[i])->entry));
    return lines("forged");
  };
  struct Case {
    const char *what;
    std::function<void(Lines &)> change;
    std::vector<std::string> found;
  };
  const Case cases[] = {
      {"nothing", [](Lines &) {}, {}},
      {"edited", [](Lines &l) { l[3].replace(l[3].find("\"A3\""), 4, "\"B3\""); }, {"api 4 was changed"}},
      {"the last one edited",
       [](Lines &l) { l[9].replace(l[9].find("ann"), 3, "bob"); },
       {"api 10 was changed"}},
      {"edited, with a hash of its own",
       [&](Lines &l) {
         Lines other(l.begin(), l.begin() + 3);
         other.push_back(l[7]);
         l[3] = rewritten(other, 3)[3];
       },
       {"api 5 does not follow the entry before it"}},
      {"one deleted", [](Lines &l) { l.erase(l.begin() + 3); }, {"api 4 is missing"}},
      {"three deleted", [](Lines &l) { l.erase(l.begin() + 3, l.begin() + 6); }, {"api 4 to 6 are missing"}},
      {"the first one deleted", [](Lines &l) { l.erase(l.begin()); }, {"api 1 is missing"}},
      {"two swapped",
       [](Lines &l) { std::swap(l[3], l[4]); },
       {"api 4 is missing", "api 4 stands where entry 6 was expected"}},
      {"one repeated",
       [](Lines &l) { l.insert(l.begin() + 5, l[4]); },
       {"api 5 stands where entry 6 was expected"}},
      {"one repeated at the end",
       [](Lines &l) { l.push_back(l[4]); },
       {"api 5 stands where entry 11 was expected"}},
      {"a line put in", [](Lines &l) { l.insert(l.begin() + 5, "{}"); }, {"api 6 was changed"}},
      {"one replaced by a line of nothing", [](Lines &l) { l[5].clear(); }, {"api 6 was changed"}},
      {"the end cut off",
       [](Lines &l) { l.resize(6); },
       {"api 7 to 8 are cut off from the end: the keys log saw entry 8 (its entry 1)"}},
      {"all of it cut off", [](Lines &l) { l.clear(); }, {"api 1 to 8 are cut off from the end"}},
      {"edited and chained anew",
       [&](Lines &l) {
         auto e = *decode_audit_line(l[3]);
         l = rewritten(l, 3);  // the same entries again: nothing to see
         EXPECT_EQ(l, good);
         Lines other = l;
         other[3] = l[2];
         l = rewritten(other, 3);
       },
       {"api 8 is not the one that the keys log saw (its entry 1): the log was written anew"}},
      {"deleted and chained anew",
       [&](Lines &l) {
         l.erase(l.begin() + 3);
         l = rewritten(l, 3);
       },
       {"api 8 is not the one that the keys log saw"}},
  };
  for (const Case &c : cases) {
    SCOPED_TRACE(c.what);
    Lines changed = good;
    c.change(changed);
    write("api", changed);
    const auto all = findings();
    ASSERT_EQ(all.size(), c.found.size()) << testing::PrintToString(all);
    for (size_t i = 0; i < all.size(); ++i) EXPECT_THAT(all[i], testing::StartsWith(c.found[i]));
  }
  // And the other way round.
  write("api", good);
  write("keys", {});
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("keys 1 is cut off from the end: the api log saw entry 1")));
  fs::remove(file("keys"));
  EXPECT_THAT(findings(), ElementsAre(HasSubstr("keys 1 is cut off from the end")));
  write("keys", keys);
  EXPECT_THAT(findings(), IsEmpty());
}

// What no one can find, said and shown: the tail behind the last exchange.
TEST_F(AuditLogTest, OnlyWhatTheOtherLogHasNotSeenYetCanBeCutOff) {
  append("api", 4);
  exchange();
  append("api", 3);
  const auto all = lines("api");
  write("api", {all.begin(), all.begin() + 4});
  EXPECT_THAT(findings(), IsEmpty());
  write("api", {all.begin(), all.begin() + 3});
  EXPECT_THAT(findings(), Not(IsEmpty()));
}

TEST_F(AuditLogTest, EveryFlippedBitIsFound) {
  append("api", 2);
  exchange();
  append("api", 1);
  std::ifstream in(file("api"));
  const std::string good(std::istreambuf_iterator<char>(in), {});
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    std::ofstream(file("api"), std::ios::trunc) << bad;
    const auto report = verify_audit(both());
    must(report);
    // The end of the last line is all that looks like a crash.
    if (at + 1 == good.size())
      EXPECT_EQ(report->notices.size(), 1u);
    else
      EXPECT_THAT(report->findings, Not(IsEmpty())) << "byte " << at;
  }
}

// ---- a log that cannot be written ----

TEST_F(AuditLogTest, ALogThatMayNotGrowIsSaidAndLeftAsItWas) {
  append("api", 2);
  const auto before = lines("api");
  const rlimit limit{fs::file_size(file("api")) + 20, RLIM_INFINITY};
  const pid_t pid = start_child(file("api"), 1, 1, STDOUT_FILENO, [&] {
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
  });
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorCode::kUnavailable));
  EXPECT_EQ(lines("api"), before);
}

TEST_F(AuditLogTest, AFullDiskIsSaidBeforeAnythingIsDone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to mount a small file system";
  const fs::path small = folder_ / "audit";
  fs::create_directory(small);
  if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "mounts are not allowed";
  append("api", 2);
  const auto before = lines("api");
  const Result<void> had_room = log("api").ready();
  std::ofstream(small / "rest") << std::string(1 << 20, 'x');
  fs::remove(file("api"));
  write("api", before);
  std::ofstream(small / "rest", std::ios::app) << std::string(1 << 20, 'x');
  const auto ready = log("api").ready();
  const auto appended = log("api").append(entry("set", std::vector<std::string>(100, std::string(250, 'N'))));
  const auto after = lines("api");
  ::umount2(small.c_str(), MNT_DETACH);
  EXPECT_TRUE(had_room);
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(ready.error().message, HasSubstr("No space left"));
  EXPECT_THAT(ready.error().remedy, HasSubstr("Free space"));
  ASSERT_FALSE(appended);
  EXPECT_EQ(appended.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(after, before);
}

TEST_F(AuditLogTest, WhatIsNoPrivateFileIsRefused) {
  append("api", 1);
  ::chmod(file("api").c_str(), 0666);
  EXPECT_THAT(log("api").ready().error().message, HasSubstr("can be changed by others"));
  fs::remove(file("api"));
  fs::create_directory(file("api"));
  EXPECT_EQ(log("api").ready().error().code, ErrorCode::kUnavailable);
  fs::remove(file("api"));
  ASSERT_EQ(::mkfifo(file("api").c_str(), 0600), 0);
  EXPECT_THAT(log("api").ready().error().message, HasSubstr("is not a file"));
  fs::remove(file("api"));
  fs::create_symlink(folder_ / "elsewhere", file("api"));
  EXPECT_EQ(log("api").ready().error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(fs::exists(folder_ / "elsewhere"));
}

}  // namespace
}  // namespace coffer

int main(int argc, char **argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--append")
    return coffer::append_in_child(argv[2], std::atoi(argv[3]), std::atoi(argv[4]));
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
