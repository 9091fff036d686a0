# What a build may do: read its input, write its output and its log, and what its purpose needs.

locals {
  account = "${var.platform.region}:${var.platform.account_id}"
}

resource "aws_iam_role" "this" {
  name                 = "${local.full_name}-build"
  description          = "CodeBuild: ${var.description}"
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "codebuild.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.platform.account_id }
        ArnEquals    = { "aws:SourceArn" = "arn:aws:codebuild:${local.account}:project/${local.full_name}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "build"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "WriteLogs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["arn:aws:logs:${local.account}:log-group:/nexus/${var.platform.name}/build/${var.purpose}:*"]
        },
        {
          Sid      = "ExchangeFiles"
          Effect   = "Allow"
          Action   = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject"]
          Resource = ["${var.artifact_bucket_arn}/*"]
        },
        {
          Sid       = "EncryptFiles"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = [var.platform.kms_key_arn]
          Condition = { StringEquals = { "kms:ViaService" = "s3.${var.platform.region}.amazonaws.com" } }
        },
      ],
      length(var.pushes_to) + length(var.reads_scans_of) == 0 ? [] : [{
        Sid      = "LogInToEcr" # the action knows no resources
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = ["*"]
      }],
      length(var.pushes_to) == 0 ? [] : [{
        Sid    = "PushImages"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImages",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = var.pushes_to
      }],
      length(var.reads_scans_of) == 0 ? [] : [{
        Sid      = "ReadScans"
        Effect   = "Allow"
        Action   = ["ecr:DescribeImageScanFindings", "ecr:DescribeImages"]
        Resource = var.reads_scans_of
      }],
      length(var.reads_task_definitions_of) == 0 ? [] : [{
        Sid      = "ReadTaskDefinitions" # the action knows no resources
        Effect   = "Allow"
        Action   = ["ecs:DescribeTaskDefinition"]
        Resource = ["*"]
      }],
    )
  })
}
