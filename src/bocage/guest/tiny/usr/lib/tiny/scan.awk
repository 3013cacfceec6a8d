# Judges a log, a line a record, with "piece" after each 128 KiB. What was on the device before the log is no
# record; it is a broken one only when it looks like the one that should be there, or when a good one follows.
BEGIN { crc_table(); last = bad = gap = suspect = empty = 0; due = 1 }
$0 == "piece" { if (++empty > 16) exit; next }
$0 == "" { next }
{
  number = ($1 == "tiny-log" && $2 ~ /^[0-9]+$/ && length($2) < 16) ? $2 + 0 : 0
  if (number > 0 && $0 == record(number, size)) {
    empty = 0
    if (suspect && !bad) bad = suspect
    if (number > due && !gap) gap = due
    last = number
    due = number + 1
    next
  }
  if (!suspect) suspect = due
  wanted = record(due, size)
  tail = 64
  if (!bad && ($1 == "tiny-log" || substr($0, length($0) - tail) == substr(wanted, length(wanted) - tail))) bad = due
  due++
}
END { print last, bad, gap }
