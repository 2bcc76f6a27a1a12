-- Bochs as a program that benches run: its configuration, and somebody who looks at its screen.
local bochs = {}

-- It waits for a viewer, and Debian's for a debugger's command: the script is both. It ends with Bochs, and Bochs with it.
local SCRIPT = [[
cd "$1" && rm -f bochs.log && echo c > commands
trap 'kill $bochs $viewer 2>/dev/null; wait' EXIT
trap exit TERM
bochs-bin -q -f bochsrc -rc commands </dev/null >/dev/null 2>&1 & bochs=$!
for i in $(seq 100); do
  sleep 0.1
  port=$(sed -n 's/.*listening for connections on port //p' bochs.log 2>/dev/null)
  if [ -n "$port" ] && exec 3<>/dev/tcp/127.0.0.1/$port; then
    printf 'RFB 003.003\n\1' >&3
    cat <&3 >/dev/null & viewer=$!
    break
  fi
done
wait $bochs
]]

--- The command that runs Bochs in a folder, with `lines` of configuration beside what every run has.
---@param dir string
---@param lines string
---@return string[]
function bochs.command(dir, lines)
  local f = assert(io.open(dir .. "/bochsrc", "w"))
  f:write("romimage: file=/usr/share/seabios/bios.bin\nvgaromimage: file=/usr/share/seabios/vgabios-stdvga.bin\n",
    "log: bochs.log\npanic: action=report\nerror: action=report\nspeaker: enabled=0\n",
    "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n",
    "display_library: rfb, options=\"timeout=20\"\ncpu: ips=100000000\n", lines)
  f:close()
  return { "bash", "-c", SCRIPT, "bochs", dir }
end

return bochs
