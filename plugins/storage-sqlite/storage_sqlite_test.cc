// What the conformance suite cannot say of storage-sqlite: its file as SQLite sees it.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>

#include <thread>

#include "storage_client.h"
#include "test_host.h"

namespace coffer::conformance {
namespace {
namespace fs = std::filesystem;

class StorageSqlite : public PluginTest {
 protected:
  std::string path() const { return options().at("path"); }
  Store store() { return Store(open()); }
  void sql(const std::string &statements) {
    SQLite::Database(path(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec(statements);
    fs::permissions(path(), fs::perms::owner_read | fs::perms::owner_write);
  }
  void expect_refused(coffer_status status, const std::string &text) {
    const auto instance = try_open();
    EXPECT_EQ(instance->status(), status) << instance->message();
    EXPECT_THAT(instance->message(), testing::HasSubstr(text));
    EXPECT_THAT(instance->message(), testing::HasSubstr(path()));
  }
};

TEST_F(StorageSqlite, AVaultOfALaterSchemaIsRefused) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  sql("PRAGMA user_version=2");
  expect_refused(COFFER_FAILED_PRECONDITION, "newer version (schema 2)");
  sql("PRAGMA user_version=1");
  EXPECT_EQ(store().value("a"), "1");
}

TEST_F(StorageSqlite, AnotherProgramsDatabaseIsRefusedAndNotTouched) {
  sql("CREATE TABLE photos(name)");
  const auto before = fs::last_write_time(path());
  expect_refused(COFFER_FAILED_PRECONDITION, "not a vault");
  EXPECT_EQ(fs::last_write_time(path()), before);
  SQLite::Database db(path());
  EXPECT_EQ(db.execAndGet("SELECT count(*) FROM sqlite_master").getInt(), 1);
}

TEST_F(StorageSqlite, TriggersInTheFileDoNotRun) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  sql("CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END");
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("b", "2")).ok());
  EXPECT_EQ(s.value("b"), "2");
}

TEST_F(StorageSqlite, TheLogStaysShortOverManyProcessesOfOneCommit) {
  uintmax_t longest = 0;
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(store().commit(Batch().put("k" + std::to_string(i), std::string(200, 'x'))).ok());
    longest = std::max(longest, fs::file_size(path() + "-wal"));
  }
  EXPECT_LT(longest, 700'000u);
  EXPECT_EQ(store().keys().size(), 300u);
}

TEST_F(StorageSqlite, TheFileIsAnOrdinaryDatabaseInWalMode) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  SQLite::Database db(path());
  EXPECT_EQ(db.execAndGet("PRAGMA journal_mode").getString(), "wal");
  EXPECT_EQ(db.execAndGet("PRAGMA integrity_check").getString(), "ok");
  EXPECT_EQ(db.execAndGet("SELECT key FROM record WHERE space='apps/one'").getString(), "a");
}

// They are committed together: each must be done whole or not at all, and be told which.
TEST_F(StorageSqlite, WritersOfOneProcessAtOnceKnowEachWhetherTheyWereFirst) {
  constexpr int kWriters = 12, kEach = 40, kCounters = 3;
  store();  // makes the file
  std::vector<std::jthread> threads;
  std::atomic<int> aborted = 0;
  for (int w = 0; w < kWriters; ++w)
    threads.emplace_back([&, w] {
      Store s = store();
      for (int i = 0; i < kEach; ++i) {
        const std::string counter = "counter" + std::to_string((w + i) % kCounters);
        for (;;) {
          Item now;
          const coffer_status found = s.get("apps/one", counter, &now);
          ASSERT_TRUE(found == COFFER_OK || found == COFFER_NOT_FOUND);
          const int n = found == COFFER_OK ? std::stoi(now.value) : 0;
          const Done done = s.commit(Batch()
                                         .require(counter, now.revision)
                                         .put(counter, std::to_string(n + 1))
                                         .put("by/" + std::to_string(w) + "/" + std::to_string(i), "x"));
          if (done.ok()) break;
          ASSERT_EQ(done.status, COFFER_ABORTED) << done;
          ++aborted;
        }
      }
    });
  threads.clear();
  Store s = store();
  int sum = 0;
  for (int c = 0; c < kCounters; ++c) sum += std::stoi(s.value("counter" + std::to_string(c)));
  EXPECT_EQ(sum, kWriters * kEach);
  EXPECT_EQ(s.keys({.prefix = "by/"}).size(), size_t{kWriters * kEach});
  EXPECT_GT(aborted, 0);  // else they never met
}

TEST_F(StorageSqlite, AWriteThatCannotBeDoneTakesNoOtherWithIt) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  sql("CREATE TABLE r(space TEXT NOT NULL, key TEXT NOT NULL CHECK(key <> 'bad'), revision INTEGER NOT NULL, "
      "value BLOB NOT NULL, PRIMARY KEY(space, key)) WITHOUT ROWID; INSERT INTO r SELECT * FROM record; "
      "DROP TABLE record; ALTER TABLE r RENAME TO record");
  std::vector<std::jthread> threads;
  for (int w = 0; w < 8; ++w)
    threads.emplace_back([&, w] {
      Store s = store();
      for (int i = 0; i < 40; ++i) {
        const std::string key = "k" + std::to_string(w) + "-" + std::to_string(i);
        if (w % 2) {
          const Done done = s.commit(Batch().put(key, "x").put("bad", "x"));
          EXPECT_EQ(done.status, COFFER_INTERNAL) << done;
        } else {
          const Done done = s.commit(Batch().put(key, "x"));
          EXPECT_TRUE(done.ok()) << done;
        }
      }
    });
  threads.clear();
  EXPECT_EQ(store().keys({.prefix = "k"}).size(), 4u * 40);
}

TEST_F(StorageSqlite, WhoeverListsMayWriteMeanwhile) {
  Store s = store();
  for (const char *key : {"a", "b", "c"}) ASSERT_TRUE(s.commit(Batch().put(key, "1")).ok());
  TestCall call;
  const auto *table = s.table();
  struct Both {
    Store *store;
    std::vector<std::string> seen;
  } both{&s, {}};
  EXPECT_EQ(table->list(
                s.raw_instance(), call, str("apps/one"), str(""), str(""), 0, 1,
                [](void *ctx, coffer_str key, uint64_t, coffer_bytes) noexcept -> int32_t {
                  auto *b = static_cast<Both *>(ctx);
                  b->seen.emplace_back(view(key));
                  EXPECT_TRUE(b->store->commit(Batch().put("new-" + b->seen.back(), "2")).ok());
                  EXPECT_EQ(b->store->value("new-" + b->seen.back()), "2");
                  return 0;
                },
                &both),
            COFFER_OK);
  EXPECT_THAT(both.seen, testing::ElementsAre("a", "b", "c"));  // as it was when the list began
}

TEST_F(StorageSqlite, AHeadThatIsGoneIsDataLoss) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  sql("DELETE FROM head");
  Store s = store();
  EXPECT_EQ(s.commit(Batch().put("a", "2")).status, COFFER_DATA_LOSS);
  EXPECT_EQ(s.value("a"), "1");
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_STORAGE_ID); }
