# From network-config version 2 (the part of YAML that seeds use) to one line for each interface:
# MAC-OR-NAME dhcp|static ADDRESSES GATEWAY NAMESERVERS SEARCH, lists with commas, "-" for nothing.
function flush() {
  if (nic == "") return
  if (mac == "") mac = nic
  print tolower(mac), (dhcp || addresses == "" ? "dhcp" : "static"), or_dash(addresses), or_dash(gateway), \
    or_dash(nameservers), or_dash(search)
  nic = ""
}
function or_dash(text) { return text == "" ? "-" : text }
function bare(text) { gsub(/[]["' ]/, "", text); return text }
function add(list, item) { item = bare(item); return item == "" ? list : (list == "" ? item : list "," item) }

{ sub(/\r$/, ""); sub(/(^|[ \t])#.*$/, "") }
/^[ \t]*$/ { next }
{
  match($0, /^ */); depth = RLENGTH
  line = substr($0, depth + 1)
  item = (line ~ /^- /)
  if (item) { sub(/^- */, "", line); depth++ }
  colon = match(line, /: |:$/)
  key = colon ? bare(substr(line, 1, colon - 1)) : ""
  value = colon ? substr(line, colon + 1) : line
  sub(/^ */, "", value)

  if (key == "ethernets") { inside = 1; top = depth; child = -1; next }
  if (!inside) next
  if (depth <= top) { flush(); inside = 0; next }
  if (child < 0) child = depth
  if (depth == child && key != "" && !item) {
    flush()
    nic = key; mac = dhcp = addresses = gateway = nameservers = search = section = ""
    next
  }
  if (key == "macaddress") mac = bare(value)
  else if (key == "dhcp4") dhcp = (bare(value) ~ /^(true|yes|on)$/)
  else if (key == "gateway4") gateway = bare(value)
  else if (key == "nameservers" || key == "routes" || key == "match") section = key
  else if (key == "addresses") {
    list = (section == "nameservers" && depth > at) ? "nameservers" : "addresses"
    if (list == "addresses") addresses = add(addresses, value)
    else nameservers = add(nameservers, value)
  }
  else if (key == "search") { list = "search"; search = add(search, value) }
  else if (key == "via" && section == "routes") via = bare(value)
  else if (key == "to" && section == "routes") to = bare(value)
  else if (item && key == "") {
    if (list == "addresses") addresses = add(addresses, value)
    else if (list == "nameservers") nameservers = add(nameservers, value)
    else if (list == "search") search = add(search, value)
  }
  if (key == "nameservers" || key == "routes" || key == "match") at = depth
  if (section == "routes" && via != "" && (to == "default" || to == "0.0.0.0/0")) { gateway = via; via = to = "" }
}
END { flush() }
