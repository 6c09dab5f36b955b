// Enumerations as arguments: Python gives the name, and reads from the module which names there are.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "named.h"

namespace fastbert::binding {

// An argument that Python gives by name.
template <class Enum>
struct ByName {
  Enum value;
  operator Enum() const { return value; }
};

template <class Enum>
const char* name_of(Enum value) {
  for (const auto& named : names_of(Enum{}))
    if (named.value == value) return named.name;
  return "unknown";
}

// All names of an enumeration.
template <class Enum>
pybind11::tuple names_of_all() {
  pybind11::list found;
  for (const auto& named : names_of(Enum{})) found.append(named.name);
  return pybind11::tuple(found);
}

}  // namespace fastbert::binding

namespace pybind11::detail {

template <class Enum>
struct type_caster<fastbert::binding::ByName<Enum>> {
  PYBIND11_TYPE_CASTER(fastbert::binding::ByName<Enum>, const_name("str"));

  bool load(handle source, bool) {
    if (!PyUnicode_Check(source.ptr())) return false;
    for (const auto& named : names_of(Enum{})) {
      if (PyUnicode_CompareWithASCIIString(source.ptr(), named.name) == 0) {
        value = {named.value};
        return true;
      }
    }
    std::string known;
    for (const auto& named : names_of(Enum{})) known += (known.empty() ? "" : ", ") + std::string(named.name);
    throw value_error("unknown name " + std::string(repr(source)) + "; the compiled module knows " + known);
  }
};

}  // namespace pybind11::detail
