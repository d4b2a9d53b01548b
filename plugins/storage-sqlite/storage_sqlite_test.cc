// What the conformance suite cannot say of storage-sqlite: its file as SQLite sees it.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>

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
