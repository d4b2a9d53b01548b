// What the conformance suite cannot say of storage-file: its packs.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>
#include <random>

#include "storage_client.h"
#include "test_host.h"

namespace coffer::conformance {
namespace {
namespace fs = std::filesystem;
using testing::HasSubstr;

class StorageFile : public PluginTest {
 protected:
  Store store() { return Store(open()); }
  fs::path vault() const { return tmp() / "vault"; }
  fs::path space(const std::string &folder = "apps,one") const { return vault() / "spaces" / folder; }
  std::vector<fs::path> packs() const {
    std::vector<fs::path> out;
    for (const auto &e : fs::directory_iterator(space())) out.push_back(e.path());
    std::sort(out.begin(), out.end());
    return out;
  }
  static std::string text(const fs::path &file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void overwrite(const fs::path &file, const std::string &with) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << with;
  }
  // A head on one large pack: "big" in 0000000001.pack, "small" in head.pack.
  void make_two_packs() {
    Store s = store();
    ASSERT_TRUE(s.commit(Batch().put("big", std::string(50'000, 'b')).put("other", "o")).ok());
    ASSERT_TRUE(s.commit(Batch().put("small", "s")).ok());
    ASSERT_TRUE(s.commit(Batch("apps/two").put("fine", "f")).ok());
    ASSERT_EQ(packs(), (std::vector<fs::path>{space() / "0000000001.pack", space() / "head.pack"}));
  }
  void expect_lost(const std::string &why) {
    Store s = store();
    Item item;
    EXPECT_NE(s.get("apps/one", "big", &item), COFFER_OK) << why;
    TestCall call;
    const Done d = s.commit(Batch().put("x", "y"));
    EXPECT_THAT(d.status, testing::AnyOf(COFFER_DATA_LOSS, COFFER_FAILED_PRECONDITION)) << why << ": " << d;
    EXPECT_THAT(d.message, HasSubstr("'apps/one'")) << why;
    EXPECT_EQ(s.value("fine", "apps/two"), "f") << why << ": another space suffers";
    EXPECT_TRUE(s.commit(Batch("apps/two").put("fine", "f")).ok()) << why;
    EXPECT_THAT(s.spaces(), testing::ElementsAre("apps/one", "apps/two")) << why;
  }
};

TEST_F(StorageFile, APackReadsAsThePageSaysItDoes) {
  ASSERT_TRUE(store().commit(Batch().put("head", "hello").put("a/b", "")).ok());
  EXPECT_EQ(text(space() / "head.pack"),
            "coffer-pack 1 0000000117\n"
            "space apps/one\n"
            "revision 1\n"
            "bases\n"
            "put a/b 1 0 0 00000000\n"
            "put head 1 0 5 3610a686\n"
            "end 13119aad\n"
            "hello");
  EXPECT_EQ(text(vault() / "FORMAT"), "coffer-storage-file 1\n");
}

TEST_F(StorageFile, EveryFlippedByteIsNoticedOrHarmless) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("big", std::string(3000, 'b')).put("other", "o")).ok());
  ASSERT_TRUE(s.commit(Batch().put("small", "s").del("other")).ok());
  for (const fs::path &pack : packs()) {
    const std::string whole = text(pack);
    for (std::size_t i = 0; i < whole.size(); i += i < 300 ? 1 : 97) {
      std::string bad = whole;
      bad[i] = char(bad[i] ^ 0x04);
      overwrite(pack, bad);
      Store t = store();
      Item item;
      for (const auto &[key, right] :
           {std::pair<std::string, std::string>("big", std::string(3000, 'b')), {"small", "s"}}) {
        const coffer_status got = t.get("apps/one", key, &item);
        if (got == COFFER_OK) {
          EXPECT_EQ(item.value, right) << pack << " byte " << i;
        } else {
          EXPECT_EQ(got, COFFER_DATA_LOSS) << pack << " byte " << i;
        }
      }
      EXPECT_NE(t.get("apps/one", "other", &item), COFFER_OK) << "a deleted key is back";
    }
    overwrite(pack, whole);
  }
}

TEST_F(StorageFile, ADamagedPackIsNamedAndHurtsItsSpaceAlone) {
  make_two_packs();
  for (const fs::path &pack : packs()) {
    const std::string whole = text(pack);
    for (const std::string &bad :
         {std::string(), whole.substr(0, whole.size() / 2), whole.substr(0, whole.size() - 1),
          whole.substr(0, 10), whole + "x", std::string(whole.size(), '\0'), whole + whole,
          "coffer-pack 2" + whole.substr(13), std::string("coffer-pack 1 9999999999\n") + whole}) {
      overwrite(pack, bad);
      expect_lost(pack.string() + " of " + std::to_string(bad.size()) + " bytes");
      EXPECT_EQ(text(pack), bad) << "a damaged pack is evidence and stays";
    }
    overwrite(pack, whole);
  }
  EXPECT_EQ(store().value("big").size(), 50'000u);
}

TEST_F(StorageFile, AMissingPackIsDataLoss) {
  make_two_packs();
  for (const fs::path &pack : packs()) {
    fs::rename(pack, tmp() / "aside");
    expect_lost("without " + pack.string());
    fs::rename(tmp() / "aside", pack);
  }
  EXPECT_EQ(store().value("small"), "s");
}

TEST_F(StorageFile, APackOfAnotherSpaceOrNumberIsRefused) {
  make_two_packs();
  const std::string whole = text(space() / "0000000001.pack");
  overwrite(space() / "0000000001.pack", text(space() / "head.pack"));
  expect_lost("the head under a number");
  overwrite(space() / "0000000001.pack", whole);
  const std::string head = text(space() / "head.pack");
  overwrite(space() / "head.pack", text(space("apps,two") / "head.pack"));
  expect_lost("the head of another space");
  overwrite(space() / "head.pack", head);
  EXPECT_EQ(store().value("big").size(), 50'000u);
}

TEST_F(StorageFile, APackThatIsNoFileIsRefusedWithoutWaiting) {
  make_two_packs();
  for (const fs::path &pack : packs()) {
    fs::rename(pack, tmp() / "aside");
    ASSERT_EQ(::mkfifo(pack.c_str(), 0600), 0);
    expect_lost("a FIFO");
    fs::remove(pack);
    fs::create_symlink(tmp() / "aside", pack);
    expect_lost("a symlink");
    fs::remove(pack);
    fs::create_directory(pack);
    expect_lost("a folder");
    fs::remove(pack);
    fs::rename(tmp() / "aside", pack);
  }
  fs::rename(space(), tmp() / "aside");
  fs::create_directory_symlink(tmp() / "aside", space());
  expect_lost("a symlink in place of the space's folder");
}

TEST_F(StorageFile, ManyCommitsLeaveFewPacks) {
  Store s = store();
  std::mt19937 random(1);
  std::size_t most = 0;
  for (int i = 0; i < 400; ++i) {
    ASSERT_TRUE(
        s.commit(Batch().put("k" + std::to_string(i), std::string(random() % 4000, 'x')).put("head", "h"))
            .ok());
    most = std::max(most, packs().size());
  }
  EXPECT_LE(most, 15u);
  EXPECT_EQ(s.keys().size(), 401u);
  ASSERT_TRUE(s.drop("apps/one").ok());
  EXPECT_EQ(packs(), (std::vector<fs::path>{space() / "head.pack"}));
}

TEST_F(StorageFile, WhatAKilledWriterLeftGoesWithTheNextCommit) {
  make_two_packs();
  overwrite(space() / "new", "half a pa");
  overwrite(space() / "0000000777.pack", "taken in by a later one, and its remover was killed");
  overwrite(space() / "README", "a note that somebody keeps here");
  EXPECT_EQ(store().value("small"), "s");
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  EXPECT_FALSE(fs::exists(space() / "new"));
  EXPECT_FALSE(fs::exists(space() / "0000000777.pack"));
  EXPECT_TRUE(fs::exists(space() / "README"));
}

TEST_F(StorageFile, ALaterFormatIsRefusedAndADamagedOneNamed) {
  {
    Store s = store();
  }
  overwrite(vault() / "FORMAT", "coffer-storage-file 2\n");
  EXPECT_EQ(try_open()->status(), COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(try_open()->message(), HasSubstr("newer version"));
  overwrite(vault() / "FORMAT", "");
  EXPECT_EQ(try_open()->status(), COFFER_DATA_LOSS);
  fs::remove(vault() / "FORMAT");
  EXPECT_EQ(try_open()->status(), COFFER_OK) << "nothing was in it";
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  fs::remove(vault() / "FORMAT");
  EXPECT_EQ(try_open()->status(), COFFER_FAILED_PRECONDITION);
  EXPECT_FALSE(fs::exists(vault() / "FORMAT"));
}

TEST_F(StorageFile, ProbeReadsEveryValue) {
  make_two_packs();
  const auto instance = open();
  TestCall call;
  TestSink health;
  EXPECT_EQ(Plugin::under_test().entry().probe(instance->raw(), call, health), COFFER_OK);
  EXPECT_EQ(health.data(), "{\"spaces\":2}");
  std::string bad = text(space() / "0000000001.pack");
  bad.back() = char(bad.back() ^ 1);
  overwrite(space() / "0000000001.pack", bad);
  const auto again = open();
  EXPECT_EQ(Plugin::under_test().entry().probe(again->raw(), call, health), COFFER_DATA_LOSS);
  EXPECT_THAT(call.message(), HasSubstr("0000000001.pack of space 'apps/one'"));
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_STORAGE_ID); }
