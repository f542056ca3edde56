// Finds the objects in a folder of images with unetzoo, and imports them into the open project, or the open image.
// For QuPath 0.4 and newer, by its source code: write your folder below, then Automate > Script editor > Run. See README.md in this folder.
import qupath.lib.io.PathIO

def folder = new File("/path/to/images").toPath() // the images of the project are here, or in sub-folders
def command = ["unetzoo", "predict", "nuclei", "$folder", "--out", "${folder}_masks", "--write", "geojson", "--smallest", "20"]

def process = new ProcessBuilder(command*.toString()).redirectErrorStream(true).start()
process.inputStream.eachLine { println it }
if (process.waitFor() > 1) throw new IOException("unetzoo stopped, see above") // 1: single images failed, all others are done
for (entry in (getProject()?.imageList ?: [null])) {
    def open = entry == getProjectEntry() // without a project both are null, which stands for the open image
    def image = new File((open ? getCurrentServer() : entry).getURIs().first().path).toPath()
    if (!image.startsWith(folder)) continue
    def file = new File("${folder}_masks/geojson/${folder.relativize(image)}".replaceFirst(/\.[^.]*$/, ".geojson"))
    if (!file.exists()) continue
    def data = open ? getCurrentImageData() : entry.readImageData()
    def earlier = data.hierarchy.detectionObjects.findAll { it.name == "unetzoo" }
    def found = PathIO.readObjects(file).each { it.name = "unetzoo" }
    data.hierarchy.removeObjects(earlier, true) // so that a second run does not duplicate them
    data.hierarchy.addObjects(found)
    println "$image: ${found.size()} objects"
    if (entry) entry.saveImageData(data)
}
