#include "coffer/plugin_host/storage.h"

#include "test_plugins.h"

namespace coffer {
namespace {

class StorageFront : public PluginHostTest {
 protected:
  Storage open(const std::string &lie = "") {
    install("fake-storage");
    Result<Storage> s = Storage::open(config("fake-storage", {{"lie", lie}}));
    if (!s) throw std::runtime_error(s.error().message);
    return *std::move(s);
  }
  static Bytes value(std::string_view text) { return {text.begin(), text.end()}; }
  static Result<std::vector<std::string>> keys(const Storage &s, std::string_view prefix = "") {
    std::vector<std::string> out;
    COFFER_CHECK(s.list("space", prefix, false, [&](Stored e) { return out.push_back(e.key), true; }));
    return out;
  }
};

TEST_F(StorageFront, GivesBackWhatWasCommitted) {
  const Storage s = open();
  const auto first =
      s.commit("space", Batch().require_absent("a/1").put("a/1", value("one")).put("b", value("")));
  ASSERT_TRUE(succeeds(first));
  const auto got = s.get("space", "a/1");
  ASSERT_TRUE(succeeds(got));
  ASSERT_TRUE(got->has_value());
  EXPECT_EQ((*got)->key, "a/1");
  EXPECT_EQ((*got)->revision, *first);
  EXPECT_EQ(as_text((*got)->value), "one");
  EXPECT_FALSE(s.get("space", "absent").value().has_value());
  EXPECT_THAT(keys(s).value(), testing::ElementsAre("a/1", "b"));
  EXPECT_THAT(keys(s, "a/").value(), testing::ElementsAre("a/1"));
  EXPECT_THAT(s.spaces("").value(), testing::ElementsAre("space"));
  EXPECT_THAT(s.commit("space", Batch().require_absent("b").put("b", value("x"))),
              FailsWith(ErrorCode::kAborted, "commit: somebody else changed it"));
  EXPECT_TRUE(succeeds(s.commit("space", Batch().require("b", *first).erase("b"))));
  EXPECT_THAT(keys(s).value(), testing::ElementsAre("a/1"));
  EXPECT_TRUE(succeeds(s.drop_space("space")));
  EXPECT_THAT(s.spaces("").value(), testing::IsEmpty());
}

TEST_F(StorageFront, ListsValuesOnlyWhenAskedAndStopsWhenTold) {
  const Storage s = open();
  ASSERT_TRUE(
      succeeds(s.commit("space", Batch().put("a", value("1")).put("b", value("2")).put("c", value("3")))));
  std::vector<std::string> seen;
  EXPECT_TRUE(succeeds(s.list("space", "", true, [&](Stored e) {
    seen.push_back(e.key + "=" + std::string(as_text(e.value)));
    return seen.size() < 2;
  })));
  EXPECT_THAT(seen, testing::ElementsAre("a=1", "b=2"));
}

TEST_F(StorageFront, APluginThatGoesOnAfterItWasStoppedDoesNoHarm) {
  const Storage s = open("goes on");
  int calls = 0;
  EXPECT_TRUE(succeeds(s.list("space", "", false, [&](Stored) { return ++calls, false; })));
  EXPECT_EQ(calls, 1);
}

TEST_F(StorageFront, ACallbackThatThrowsDoesNotUnwindThroughThePlugin) {
  const Storage s = open();
  ASSERT_TRUE(succeeds(s.commit("space", Batch().put("a", value("1")))));
  EXPECT_THAT(s.list("space", "", false, [](Stored) -> bool { throw std::bad_alloc(); }),
              FailsWith(ErrorCode::kResourceExhausted, "list: no memory"));
}

TEST_F(StorageFront, NamesThatAreNoKeysNeverReachThePlugin) {
  const Storage s = open("throws");
  const std::string bad[] = {"",     "/",      "/a",  "a/",   "a//b",     ".",     "..",
                             "a/.",  "a/../b", "a b", "a\nb", "\xc3\xa9", "a%2fb", std::string(513, 'a'),
                             "a\\b", "a:b"};
  for (const std::string &key : bad) {
    EXPECT_THAT(s.get("space", key), FailsWith(ErrorCode::kInvalidArgument, "storage: key '")) << key;
    EXPECT_THAT(s.get(key, "key"), FailsWith(ErrorCode::kInvalidArgument, "storage: space '")) << key;
    EXPECT_THAT(s.commit("space", Batch().put(key, {})),
                FailsWith(ErrorCode::kInvalidArgument, "storage: key '"));
    EXPECT_THAT(s.commit("space", Batch().require(key, 1).put("a", {})),
                FailsWith(ErrorCode::kInvalidArgument, "storage: key '"));
    EXPECT_THAT(s.drop_space(key), FailsWith(ErrorCode::kInvalidArgument, "storage: space '"));
  }
  EXPECT_THAT(s.list("space", "a b", false, [](Stored) { return true; }),
              FailsWith(ErrorCode::kInvalidArgument, "no key begins with"));
  EXPECT_THAT(s.spaces("\n"), FailsWith(ErrorCode::kInvalidArgument, "no key begins with"));
  EXPECT_THAT(s.get(std::string(129, 's'), "k"), FailsWith(ErrorCode::kInvalidArgument, "1 to 128"));
}

TEST_F(StorageFront, BatchesBeyondTheLimitsNeverReachThePlugin) {
  const Storage s = open("revision 0");
  EXPECT_THAT(s.commit("space", Batch()), FailsWith(ErrorCode::kInvalidArgument, "nothing to commit"));
  Batch many;
  for (int i = 0; i < 101; ++i) many.put(std::to_string(i), {});
  EXPECT_THAT(s.commit("space", many),
              FailsWith(ErrorCode::kInvalidArgument, "101 changes in one batch, at most 100"));
  EXPECT_THAT(s.commit("space", Batch().put("big", Bytes(s.limits().max_value + 1))),
              FailsWith(ErrorCode::kInvalidArgument, "storage: key 'big': value of 1310721 bytes"));
  EXPECT_THAT(s.commit("space", Batch().put("a", Bytes(1200 << 10)).put("b", Bytes(1200 << 10))),
              FailsWith(ErrorCode::kInvalidArgument, "a batch of 2457602 bytes, at most 2097152"));
}

struct Lie {
  const char *lie, *says;
};
class LyingGet : public StorageFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingGet, IsDataLossByName) {
  EXPECT_THAT(open(GetParam().lie).get("space", "key"),
              FailsWith(ErrorCode::kDataLoss, "plugin fake-storage: get: " + std::string(GetParam().says)));
}
INSTANTIATE_TEST_SUITE_P(All, LyingGet,
                         testing::Values(Lie{"nothing", "answered OK without a value"},
                                         Lie{"not found but there", "answered a value it says is absent"},
                                         Lie{"other key", "answered another key"},
                                         Lie{"revision 0", "answered revision 0"},
                                         Lie{"too large", "answered a value beyond its own limit"},
                                         Lie{"size without data", "answered a value beyond its own limit"},
                                         Lie{"twice", "answered twice"}));

class LyingList : public StorageFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingList, IsDataLossByName) {
  EXPECT_THAT(keys(open(GetParam().lie), GetParam().lie == std::string_view("foreign") ? "a/" : ""),
              FailsWith(ErrorCode::kDataLoss, "plugin fake-storage: list: " + std::string(GetParam().says)));
}
INSTANTIATE_TEST_SUITE_P(All, LyingList,
                         testing::Values(Lie{"unsorted", "answered keys out of order"},
                                         Lie{"same twice", "answered keys out of order"},
                                         Lie{"foreign", "answered a key outside of the prefix"},
                                         Lie{"revision 0", "answered revision 0"},
                                         Lie{"too large", "answered a value beyond its own limit"},
                                         Lie{"unasked values", "answered values that nobody asked for"},
                                         Lie{"dots", "answered a key that is none"},
                                         Lie{"long key", "answered a key that is none"}));

TEST_F(StorageFront, ACommitWithoutANewerRevisionIsDataLoss) {
  EXPECT_THAT(open("revision 0").commit("space", Batch().put("a", {})),
              FailsWith(ErrorCode::kDataLoss, "commit: answered a revision that is not newer"));
  EXPECT_THAT(open("old revision").commit("space", Batch().require("a", 3).put("a", {})),
              FailsWith(ErrorCode::kDataLoss, "commit: answered a revision that is not newer"));
}

TEST_F(StorageFront, SpacesThatAreWrongAreDataLoss) {
  EXPECT_THAT(open("space twice").spaces(""), FailsWith(ErrorCode::kDataLoss, "answered a space twice"));
  EXPECT_THAT(open("foreign").spaces("a"),
              FailsWith(ErrorCode::kDataLoss, "answered a space outside of the prefix"));
  EXPECT_THAT(open("dots").spaces(""), FailsWith(ErrorCode::kDataLoss, "answered a space that is none"));
}

}  // namespace
}  // namespace coffer
