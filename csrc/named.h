// Enumerations whose values have names, by which Python knows them: no number of theirs leaves C++.
#pragma once

namespace fastbert {

template <class Enum>
struct Named {
  const char* name;
  Enum value;
};

// For each such enumeration there is `const auto& names_of(Enum)`, beside it.

}  // namespace fastbert
