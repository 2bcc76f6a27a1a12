-- check.
local image = require "vmlua.img.image"
local options = require "vmlua.img.options"
local output = require "vmlua.img.output"
local tool = require "vmlua.core.blocktool"

local check = {
  name = "check", synopsis = "FILE", doc = "Looks for damage in an image, and repairs it.", files = { 1, 1 },
  options = options.with("format output quiet progress source_cache share image_opts object", {
    { short = "r", long = "repair", key = "repair", arg = "WHAT", values = { "leaks", "all" },
      doc = "Repair leaks (space that is lost), or all: also damage, where the right way may have to be guessed." },
  }),
}

-- Exit statuses, as qemu-img's.
local CLEAN, FAILED, DAMAGED, LEAKS, NO_CHECK = 0, 1, 2, 3, 63

local function run_check(s, fix)
  local i <close> = image.open(s[1], {
    format = s.format, read_only = not fix, cache = s.source_cache, share = s.share, image_opts = s.image_opts, for_check = true,
  })
  if not tool.can(i.node, "check") then options.fail_with("This image format does not support checks", NO_CHECK) end
  local progress <close> = output.progress(s, "check")
  local result, why = tool.check(i.node, fix, function(done, total)
    progress:show(done, total)
    return true
  end, function(finding)
    progress:interrupt()
    io.stderr:write(finding, "\n")
  end)
  progress:finish(result ~= nil)
  if not result then options.fail("check: %s", why) end
  if fix then i:close() end
  return result, i.format
end

local function json_of(s, r, format)
  local out = { filename = s[1], format = format, ["check-errors"] = r.check_errors }
  local function put(key, value)
    if value ~= 0 then out[key] = value end
  end
  put("image-end-offset", r.image_end_offset)
  put("corruptions", r.corruptions)
  put("leaks", r.leaks)
  put("corruptions-fixed", r.corruptions_fixed)
  put("leaks-fixed", r.leaks_fixed)
  put("total-clusters", r.total_clusters)
  put("allocated-clusters", r.allocated_clusters)
  put("fragmented-clusters", r.fragmented_clusters)
  put("compressed-clusters", r.compressed_clusters)
  return output.json(out)
end

local function print_result(r)
  if r.corruptions == 0 and r.leaks == 0 and r.check_errors == 0 then
    print "No errors were found on the image."
  else
    if r.corruptions > 0 then
      print(("\n%d errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.")
        :format(r.corruptions))
    end
    if r.leaks > 0 then
      print(("\n%d leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data."):format(r.leaks))
    end
    if r.check_errors > 0 then print(("\n%d internal errors have occurred during the check."):format(r.check_errors)) end
  end
  if r.total_clusters > 0 and r.allocated_clusters > 0 then
    print(("%d/%d = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters"):format(r.allocated_clusters, r.total_clusters,
      r.allocated_clusters * 100 / r.total_clusters, r.fragmented_clusters * 100 / r.allocated_clusters,
      r.compressed_clusters * 100 / r.allocated_clusters))
  end
  if r.image_end_offset > 0 then print("Image end offset: " .. r.image_end_offset) end
end

function check.run(s)
  local quiet = s.quiet or s.output == "json"
  local result, format = run_check(s, s.repair)
  if s.repair and (result.leaks_fixed > 0 or result.corruptions_fixed > 0) then
    if not quiet then
      print(("The following inconsistencies were found and repaired:\n\n    %d leaked clusters\n    %d corruptions\n\n" ..
        "Double checking the fixed image now..."):format(result.leaks_fixed, result.corruptions_fixed))
    end
    local again = run_check(s, nil)
    again.leaks_fixed, again.corruptions_fixed = result.leaks_fixed, result.corruptions_fixed
    result = again
  end
  if s.output == "json" then
    print(json_of(s, result, format))
  elseif not quiet then
    print_result(result)
  end
  if result.corruptions > 0 then return DAMAGED end
  if result.leaks > 0 then return LEAKS end
  return result.check_errors > 0 and FAILED or CLEAN
end

return { check }
