#!/bin/sh
# The demo of `make demo-sync`: a sandbox carrier, a licensed fleet, and the list of the next day.
set -eu
batchlic=${BATCHLIC:-batchlic}
home=$(mktemp -d)
$batchlic sandbox --port 0 > "$home/sandbox.json" 2> /dev/null &
sandbox=$!
trap 'kill $sandbox; wait $sandbox 2> /dev/null || :; rm -r "$home"' EXIT
until grep -q base_url "$home/sandbox.json"; do
    kill -0 $sandbox  # ends the demo if the sandbox has not started
    sleep 0.1
done

BATCHLIC_BASE_URL=$(sed -E 's/.*"base_url":"([^"]+)".*/\1/' "$home/sandbox.json")
BATCHLIC_STATE_DIR=$home/runs
export BATCHLIC_BASE_URL BATCHLIC_STATE_DIR BATCHLIC_CLIENT_ID=sandbox BATCHLIC_CLIENT_SECRET=sandbox
export BATCHLIC_USERNAME=sandbox BATCHLIC_PASSWORD=sandbox

gzip -dc sample_data/fleet.csv.gz > "$home/all.csv"
sed -n '1,501p' "$home/all.csv" > "$home/monday.csv"
sed -n '1p;22,521p' "$home/all.csv" > "$home/tuesday.csv"
target="--account 0000123456-00001 --sku SIMSec-IoT --max-rejects 60 --yes"

echo "Monday: 500 devices get a license." >&2
$batchlic assign "$home/monday.csv" $target
echo "Tuesday: 20 devices are gone, which is more than the guard of 1% allows." >&2
$batchlic sync "$home/tuesday.csv" $target || test $? -eq 4
echo "The list is right, so the operator allows it." >&2
$batchlic sync "$home/tuesday.csv" $target --max-removals 20
