#!/bin/sh
# exports.sh FOLDER_OR_PLUGIN...: every plugin exports exactly one symbol, and that is coffer_plugin_entry_v1.
bad=0 seen=0
for place in "$@"; do
  [ -d "$place" ] && set -- "$place"/*.so || set -- "$place"
  for plugin in "$@"; do
    seen=$((seen + 1))
    found=$(nm -D --defined-only "$plugin" | awk '{ print $2, $3 }')
    if [ "$found" != "D coffer_plugin_entry_v1" ] && [ "$found" != "R coffer_plugin_entry_v1" ]; then
      echo "$plugin exports:" && echo "$found" && bad=1
    fi
  done
done
echo "$seen plugins"
[ "$bad" = 0 ] && [ "$seen" -gt 0 ]
