#include "coffer/plugin_host/kms.h"

#include "test_plugins.h"

namespace coffer {
namespace {

using testing::HasSubstr;

class KmsFront : public PluginHostTest {
 protected:
  Kms open(const std::string &lie = "") {
    install("fake-kms");
    Result<Kms> k = Kms::open(config("fake-kms", {{"lie", lie}}));
    if (!k) throw std::runtime_error(k.error().message);
    return *std::move(k);
  }
  static SecretBytes key() { return SecretBytes::copy_of(as_bytes("0123456789abcdef0123456789abcdef")); }
};

TEST_F(KmsFront, UnwrapsWhatItWrapped) {
  const Kms kms = open();
  const auto wrapped = kms.wrap("root", key(), as_bytes("context"));
  ASSERT_TRUE(succeeds(wrapped));
  EXPECT_EQ(wrapped->key, "root");
  EXPECT_EQ(wrapped->version, "2");
  EXPECT_EQ(as_text(wrapped->annotations), "note");
  const auto plaintext = kms.unwrap(*wrapped, as_bytes("context"));
  ASSERT_TRUE(succeeds(plaintext));
  EXPECT_EQ(as_text(plaintext->reveal()), as_text(key().reveal()));
}

TEST_F(KmsFront, ListsVersionsAndCreateAnswersThePrimary) {
  const auto keys = open().keys("");
  ASSERT_TRUE(succeeds(keys));
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_FALSE((*keys)[0].primary);
  EXPECT_TRUE((*keys)[1].primary);
  EXPECT_EQ(open().create("mine").value().version, "2");
  EXPECT_EQ(open().create("mine").value().key, "mine");
}

TEST_F(KmsFront, AKeyThatIsNotThereIsAnEmptyList) {
  EXPECT_TRUE(open("absent").keys("root").value().empty());
}

TEST_F(KmsFront, WhatIsNoKeyNeverReachesThePlugin) {
  const Kms kms = open();
  EXPECT_THAT(kms.wrap("root", SecretBytes(), {}), FailsWith(ErrorCode::kInvalidArgument, "1 to 64 bytes"));
  EXPECT_THAT(kms.wrap("root", SecretBytes(65), {}), FailsWith(ErrorCode::kInvalidArgument, "1 to 64 bytes"));
  for (const std::string name : {"", "a\nb", "\xff"}) {
    EXPECT_THAT(kms.wrap(name, key(), {}), FailsWith(ErrorCode::kInvalidArgument, "key name"));
    EXPECT_THAT(kms.create(name), FailsWith(ErrorCode::kInvalidArgument, "key name"));
  }
  EXPECT_THAT(kms.keys(std::string(257, 'k')), FailsWith(ErrorCode::kInvalidArgument, "1 to 256 bytes"));
}

struct Lie {
  const char *lie, *says;
};
class LyingKeys : public KmsFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingKeys, IsDataLossByName) {
  EXPECT_THAT(open(GetParam().lie).keys("root"),
              FailsWith(ErrorCode::kDataLoss, "plugin fake-kms: list keys: " + std::string(GetParam().says)));
  EXPECT_THAT(open(GetParam().lie).create("root"), FailsWith(ErrorCode::kDataLoss, GetParam().says));
}
INSTANTIATE_TEST_SUITE_P(All, LyingKeys,
                         testing::Values(Lie{"other key", "answered another key"},
                                         Lie{"no version", "answered a key without a version"},
                                         Lie{"long version", "answered a key without a version"},
                                         Lie{"version twice", "answered a version twice"},
                                         Lie{"two primaries", "answered two primary versions of a key"},
                                         Lie{"state 9", "answered a key in no known state"},
                                         Lie{"short record", "answered a key record that is too short"},
                                         Lie{"null record", "answered a key record that is too short"}));

class LyingWrap : public KmsFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingWrap, IsDataLossByName) {
  const auto wrapped = open(GetParam().lie).wrap("root", key(), {});
  ASSERT_THAT(wrapped,
              FailsWith(ErrorCode::kDataLoss, "plugin fake-kms: wrap: " + std::string(GetParam().says)));
  EXPECT_THAT(wrapped.error().message, Not(HasSubstr("0123456789")));
}
INSTANTIATE_TEST_SUITE_P(All, LyingWrap,
                         testing::Values(Lie{"not wrapped", "answered the key itself, not wrapped"},
                                         Lie{"beside", "answered the key itself, not wrapped"},
                                         Lie{"large", "answered more than the limit"},
                                         Lie{"large annotations", "answered more than the limit"},
                                         Lie{"no ciphertext", "answered no ciphertext"},
                                         Lie{"no version", "answered no version"},
                                         Lie{"control version", "answered no version"}));

TEST_F(KmsFront, APluginThatCommitsMoreThanItReservedIsStopped) {
  EXPECT_THAT(open("commit more").wrap("root", key(), {}),
              FailsWith(ErrorCode::kInvalidArgument, "result refused by the host"));
}

TEST_F(KmsFront, AnUnwrapWithoutAKeyOrWithTooLargeAKeyIsDataLoss) {
  const WrappedKey wrapped{"root", "1", Bytes(32), {}};
  EXPECT_THAT(open("nothing").unwrap(wrapped, {}),
              FailsWith(ErrorCode::kDataLoss, "unwrap: answered OK without a key"));
  EXPECT_THAT(open("large").unwrap(wrapped, {}),
              FailsWith(ErrorCode::kDataLoss, "unwrap: answered more than 64 bytes"));
}

}  // namespace
}  // namespace coffer
