#!/bin/bash
# bochs.sh IMAGE FOLDER: runs a guest of this folder on Bochs; its report is part of what comes out. Bochs waits for a client
# of its display: that is the socket.
cd "$2" && cp "$1" rom.bin && rm -f bochs.log && echo c > commands || exit 1
cat > bochsrc <<X
romimage: file=rom.bin, address=0xffff0000
vgaromimage: file=/usr/share/seabios/vgabios-stdvga.bin
megs: 32
log: bochs.log
panic: action=report
port_e9_hack: enabled=1
speaker: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
display_library: rfb, options="timeout=20"
cpu: model=corei7_skylake_x, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=0
X
timeout 60 bochs-bin -q -f bochsrc -rc commands </dev/null 2>/dev/null & bochs=$!
for i in $(seq 100); do
  sleep 0.1
  port=$(sed -n 's/.*listening for connections on port //p' bochs.log 2>/dev/null)
  if [ -n "$port" ] && exec 3<>/dev/tcp/127.0.0.1/$port; then printf 'RFB 003.003\n\1' >&3; cat <&3 >/dev/null & break; fi
done
wait $bochs
kill $! 2>/dev/null
exit 0
