# A tag names one image for ever: what was tested is what runs, and a rollback finds what it left.

resource "aws_ecr_repository" "this" {
  for_each             = var.repositories
  name                 = "${var.name}/${each.value}"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = var.force_delete

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.kms_key_arn
  }
  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each   = aws_ecr_repository.this
  repository = each.value.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "layers that no tag reaches"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "all but the newest images"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.keep_images }
        action       = { type = "expire" }
      },
    ]
  })
}

module "critical_findings" {
  source      = "../event-alert"
  name        = "${var.name}-image-findings"
  description = "A scan found a critical vulnerability in an image of ${var.name}."
  runbook     = "bad-model-rollback"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.ecr"]
    detail-type = ["ECR Image Scan"]
    detail = {
      repository-name         = [{ prefix = "${var.name}/" }]
      finding-severity-counts = { CRITICAL = [{ numeric = [">", 0] }] }
    }
  })
}
