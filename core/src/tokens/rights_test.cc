#include "coffer/tokens/rights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coffer {
namespace {

using Caveats = std::vector<std::string>;

Rights of(const Caveats &caveats) {
  auto r = Rights::of(caveats);
  EXPECT_TRUE(r) << (r ? "" : r.error().message);
  return r ? *r : Rights();
}

TEST(Rights, WithoutCaveatAreAllOfThemOnEveryAppForEver) {
  const Rights all = of({});
  for (size_t i = 0; i < kRightWords.size(); ++i) {
    EXPECT_TRUE(all.allows(static_cast<Right>(i), "web"));
    EXPECT_TRUE(all.allows(static_cast<Right>(i), ""));
  }
  EXPECT_FALSE(all.expired(UINT64_MAX));
}

TEST(Rights, OfEachWordAllowThatWordAndNoOther) {
  for (size_t i = 0; i < kRightWords.size(); ++i) {
    const Rights one = of({"allow = " + std::string(kRightWords[i])});
    for (size_t k = 0; k < kRightWords.size(); ++k)
      EXPECT_EQ(one.allows(static_cast<Right>(k), "web"), i == k) << kRightWords[i] << ", " << kRightWords[k];
  }
}

TEST(Rights, ForCertainAppsReachNoOtherAndNothingThatBelongsToNone) {
  const Rights r = of({"app = web,api"});
  EXPECT_TRUE(r.allows(Right::kSet, "web"));
  EXPECT_TRUE(r.allows(Right::kSet, "api"));
  EXPECT_FALSE(r.allows(Right::kSet, "other"));
  EXPECT_FALSE(r.allows(Right::kSet, "we"));
  EXPECT_FALSE(r.allows(Right::kSet, "web,api"));
  EXPECT_FALSE(r.allows(Right::kToken, ""));
}

TEST(Rights, OfSeveralCaveatsOfAKindAreWhatAllOfThemAllow) {
  const Rights r =
      of({"app = web,api", "allow = list,set,deploy", "expires = 2030-01-01T00:00:00Z", "app = api,other",
          "allow = set,exec", "expires = 2027-01-01T00:00:00Z", "expires = 2028-01-01T00:00:00Z"});
  EXPECT_THAT(*r.apps(), testing::ElementsAre("api"));
  EXPECT_THAT(r.words(), testing::ElementsAre("set"));
  EXPECT_EQ(r.expires_ms(), parse_utc("2027-01-01T00:00:00Z"));
  const Rights none = of({"app = web", "app = api", "allow = list", "allow = set"});
  EXPECT_FALSE(none.allows(Right::kList, "web"));
  EXPECT_FALSE(none.allows(Right::kSet, "api"));
  EXPECT_FALSE(none.allows(Right::kSet, ""));
  EXPECT_TRUE(none.words().empty());
}

TEST(Rights, EndAtTheVerySecond) {
  const Rights r = of({"expires = 2027-01-01T00:00:00Z"});
  const uint64_t end = *parse_utc("2027-01-01T00:00:00Z");
  EXPECT_EQ(end, 1798761600000u);  // date -u -d 2027-01-01 +%s
  EXPECT_FALSE(r.expired(end - 1));
  EXPECT_TRUE(r.expired(end));
}

TEST(Rights, OfACaveatThatIsNotUnderstoodAreNone) {
  for (const char *wrong : {"",
                            "a",
                            "app",
                            "app =",
                            "app = ",
                            "app= web",
                            "app =web",
                            "app  = web",
                            "App = web",
                            "app = Web",
                            "app = web,",
                            "app = ,web",
                            "app = web, api",
                            "app = web ",
                            " app = web",
                            "app = web\n",
                            "app = -web",
                            "app = w*",
                            "app != web",
                            "app = web;api",
                            "application = web",
                            "allow = ",
                            "allow = all",
                            "allow = *",
                            "allow = List",
                            "allow = list,",
                            "allow = list, set",
                            "allow = list set",
                            "allow = list,list,write",
                            "deny = set",
                            "expires = ",
                            "expires = 30d",
                            "expires = 2027-01-01",
                            "expires = 2027-01-01T00:00:00",
                            "expires = 2027-01-01T00:00:00z",
                            "expires = 2027-01-01t00:00:00Z",
                            "expires = 2027-01-01 00:00:00Z",
                            "expires = 2027-01-01T00:00:00.5Z",
                            "expires = 2027-01-01T00:00:00+00:00",
                            "expires = 2027-1-01T00:00:00Z",
                            "expires = 2027-13-01T00:00:00Z",
                            "expires = 2027-00-01T00:00:00Z",
                            "expires = 2027-02-29T00:00:00Z",
                            "expires = 2027-04-31T00:00:00Z",
                            "expires = 2027-01-01T24:00:00Z",
                            "expires = 2027-01-01T00:60:00Z",
                            "expires = 2027-01-01T00:00:60Z",
                            "expires = 1969-12-31T23:59:59Z",
                            "expires = 2027-01-01T00:00:00ZZ",
                            "time < 2027-01-01T00:00:00Z"}) {
    const auto r = Rights::of(Caveats{"app = web", wrong});
    ASSERT_FALSE(r) << wrong;
    EXPECT_EQ(r.error().code, ErrorCode::kPermissionDenied);
    EXPECT_EQ(r.error().message, "caveat 2 of the token is not understood, so the token is refused");
  }
  EXPECT_FALSE(Rights::of(Caveats{std::string("app = web\0", 10)}));
  EXPECT_TRUE(Rights::of(Caveats{"expires = 2028-02-29T23:59:59Z"}));
}

TEST(Rights, CoverWhatHasNoMoreOfAnything) {
  const Rights all, web = of({"app = web"}), two = of({"app = api,web"}), set = of({"allow = set"}),
                    set_list = of({"allow = list,set"}), soon = of({"expires = 2027-01-01T00:00:00Z"}),
                    later = of({"expires = 2028-01-01T00:00:00Z"});
  for (const Rights *r : {&all, &web, &two, &set, &set_list, &soon, &later}) {
    EXPECT_TRUE(all.covers(*r));
    EXPECT_TRUE(r->covers(*r));
    EXPECT_EQ(r->covers(all), r == &all);
  }
  EXPECT_TRUE(two.covers(web));
  EXPECT_FALSE(web.covers(two));
  EXPECT_TRUE(set_list.covers(set));
  EXPECT_FALSE(set.covers(set_list));
  EXPECT_TRUE(later.covers(soon));
  EXPECT_FALSE(soon.covers(later));
  EXPECT_FALSE(web.covers(set));
  EXPECT_FALSE(set.covers(soon));
}

TEST(Rights, AreReadBackFromTheTextThatIsWritten) {
  const uint64_t end = *parse_utc("2031-12-31T23:59:59Z");
  const Caveats apps = {"web", "api"}, words = {"set", "list"};
  const Rights r = of({app_caveat(apps), allow_caveat(words), expires_caveat(end + 999)});
  EXPECT_EQ(app_caveat(apps), "app = web,api");
  EXPECT_EQ(allow_caveat(words), "allow = set,list");
  EXPECT_EQ(expires_caveat(end + 999), "expires = 2031-12-31T23:59:59Z");
  EXPECT_THAT(*r.apps(), testing::ElementsAre("api", "web"));
  EXPECT_THAT(r.words(), testing::ElementsAre("list", "set"));
  EXPECT_EQ(r.expires_ms(), end);
}

}  // namespace
}  // namespace coffer
